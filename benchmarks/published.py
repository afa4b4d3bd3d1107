"""The KL evaluation as it was published (O. Claflin, 2025-06-25): a full forward pass for every condition.

Written anew from what the released scripts do: a hook on the layer replaces its output; inside it the SAE
encodes the activation again, also for ε draws, which need the norm of its error; codes are written out with
all latents; KL is Σ p log((p + 1e-8) / (q + 1e-8)) of two softmaxes, both computed for every pair. What the
scripts do with every single value afterwards (a Python dictionary each) is left out.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from sae_nfm.models.autoencoder import Autoencoder

EPSILON = 1e-8


class Reconstructions(NamedTuple):
    """What the hook makes of an activation, in the model's units."""

    sae: Float[Tensor, "token d_model"]
    sae_nfm: Float[Tensor, "token d_model"]


class DenseAutoencoder(nn.Module):
    """The same weights and the same reconstruction, with every latent of every token written out."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.normalizer, self.sae, self.nfm = autoencoder.normalizer, autoencoder.sae, autoencoder.nfm

    def codes(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_sae"]:
        """f with its zeros."""
        features = torch.relu((self.normalizer(x) - self.sae.b_dec) @ self.sae.W_enc + self.sae.b_enc)
        top = features.topk(self.sae.k, dim=1)
        return torch.zeros_like(features).scatter_(1, top.indices, top.values)

    def decode(self, x: Float[Tensor, "token d_model"], f: Float[Tensor, "token d_sae"]) -> Tensor:
        """x̂ of x with codes f."""
        return self.normalizer.units(x).inverse(f @ self.sae.W_dec + self.sae.b_dec)

    def residual(self, x: Float[Tensor, "token d_model"], f: Float[Tensor, "token d_sae"]) -> Tensor:
        """r̂ of an order-2 NFM."""
        nfm = self.nfm
        pooled = ((f @ nfm.V).pow(2) - f.pow(2) @ nfm.V.pow(2)) / 2 * nfm.pool_scale
        corrected = f @ nfm.W_lin + nfm.b + nfm.head(pooled)
        return self.normalizer.units(x).inverse_difference(corrected)


class PublishedEvaluation:
    """KL of every position under the SAE, the SAE with its NFM, and draws of ε.

    Args:
        model: the Hugging Face model itself.
        layer: the module whose output is replaced.
        autoencoder: normaliser, SAE and NFM of order 2.
        draws: of ε.
    """

    def __init__(
        self, model: PreTrainedModel, layer: nn.Module, autoencoder: Autoencoder, draws: int
    ) -> None:
        self.model, self.layer, self.draws = model, layer, draws
        self.dense = DenseAutoencoder(autoencoder).eval()

    @torch.no_grad()
    def logits(self, tokens: Int64[Tensor, "block pos"]) -> Iterator[tuple[str, Tensor]]:
        """Condition and logits, `clean` first, each from a full pass."""
        yield "clean", self._forward(tokens)
        yield "sae", self._hooked(tokens, self._sae)
        yield "sae_nfm", self._hooked(tokens, self._sae_nfm)
        for _ in range(self.draws):
            yield "eps", self._hooked(tokens, self._eps)

    @torch.no_grad()
    def kl(self, tokens: Int64[Tensor, "block pos"]) -> dict[str, list[Float[Tensor, "block pos"]]]:
        """KL of every condition and draw."""
        passes = self.logits(tokens)
        _, clean = next(passes)
        found: dict[str, list[Tensor]] = {}
        for name, logits in passes:
            found.setdefault(name, []).append(published_kl(clean, logits))
        return found

    def _forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits

    def _hooked(self, tokens: Tensor, replace: Callable[[Tensor], Tensor]) -> Tensor:
        def hook(module: nn.Module, inputs: object, output: object) -> object:
            activation = output[0] if isinstance(output, tuple) else output
            out = replace(activation.flatten(0, 1)).view_as(activation)
            return (out, *output[1:]) if isinstance(output, tuple) else out

        handle = self.layer.register_forward_hook(hook)
        try:
            return self._forward(tokens)
        finally:
            handle.remove()

    def _sae(self, x: Tensor) -> Tensor:
        return self.dense.decode(x, self.dense.codes(x))

    def _sae_nfm(self, x: Tensor) -> Tensor:
        f = self.dense.codes(x)
        return self.dense.decode(x, f) + self.dense.residual(x, f)

    def _eps(self, x: Tensor) -> Tensor:
        error = (self._sae(x) - x).norm(dim=-1, keepdim=True)
        return x + error * nn.functional.normalize(torch.randn_like(x), dim=-1)


def published_kl(
    clean: Float[Tensor, "block pos d_vocab"], logits: Float[Tensor, "block pos d_vocab"]
) -> Float[Tensor, "block pos"]:
    """Softmax, then a logarithm with an epsilon."""
    p, q = clean.softmax(-1), logits.softmax(-1)
    return (p * torch.log((p + EPSILON) / (q + EPSILON))).sum(-1)


def exact_kl(
    clean: Float[Tensor, "block pos d_vocab"], logits: Float[Tensor, "block pos d_vocab"]
) -> Float[Tensor, "block pos"]:
    """The same without an epsilon, from log-softmaxes."""
    log_p, log_q = clean.log_softmax(-1), logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
