"""What every sparse autoencoder is to the rest of the suite, whatever its family.

A family is one file beside this one: a subclass that says how it encodes (`latents`, or `encode` where it
need not write them all out) and what it makes of a training batch (`attempt`). Inference is per token: the
codes of an activation never depend on what else is in its batch.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, encode_dense, weighted_sum
from sae_nfm.models.entries import Entries
from sae_nfm.models.saes.firing import Firing

ALL = slice(None)
_ELEMENTS = 1 << 24
"""Of pre-activations that are looked through at a time, by operators that take 20 bytes for each."""
Centre = Literal["geometric_median", "mean", "zero"]


class Attempt(NamedTuple):
    """What an SAE makes of a batch in training."""

    reconstruction: Float[Tensor, "token d_in"]
    active: Codes | Entries
    """What it is made of, as models of the residual read it, with its gradient."""
    fired: Bool[Tensor, " d_sae"]
    """Latents that are active on any token of the batch."""
    l0: Float[Tensor, ""]
    """Mean number of active latents per token."""
    terms: dict[str, Float[Tensor, ""]]
    """The family's own terms of the loss, weighted, by name: they are added to the objective's. Where a term
    is an error of the activation, it is a fraction of the batch's variance (`variance`), as the objective's
    is; AuxK's is of the residual, and a fraction of that."""

    def codes(self) -> Codes:
        """The active latents of every token."""
        return self.active if isinstance(self.active, Codes) else self.active.codes(len(self.reconstruction))


class SparseAutoencoder(nn.Module):
    """x̂ = W_dec f + b_dec with sparse codes f of x − b_dec.

    Decoder rows start as random unit vectors, and the encoder as the decoder's transpose.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        b_dec_init: where `initialize_` puts the decoder bias.
    """

    l0 = math.inf
    """Active latents per token, on average, that training aims at; infinite where it aims at no number."""
    row_norms: Float[Tensor, "d_sae 1"] | None
    """Of the decoder, where they are not 1."""
    subtracts_b_dec = True
    """Whether the encoder reads x − b_dec, or x itself, as some published SAEs do."""

    def __init__(self, d_in: int, d_sae: int, b_dec_init: Centre = "zero") -> None:
        super().__init__()
        self.d_in, self.d_sae, self.b_dec_init = d_in, d_sae, b_dec_init
        directions = nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
        self.W_dec = nn.Parameter(directions)
        # One row per latent in memory, as the sparse gradient is: [d_in, d_sae] is a view of it.
        self.W_enc_rows = nn.Parameter(directions.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("row_norms", None, persistent=False)

    @property
    def family(self) -> str:
        """What the field calls it, which is the name of its file: `topk`, `jumprelu`, …"""
        return type(self).__module__.rpartition(".")[2]

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """The encoder in the field's usual orientation."""
        return self.W_enc_rows.t()

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """f of every token, written out; none is negative."""
        raise NotImplementedError

    def encode(self, x: Float[Tensor, "... d_in"]) -> Codes:
        """The active latents of every token, padded to the most active one's."""
        codes = encode_dense(self.latents, x, self.d_sae)
        return Codes(codes.values.to(self.W_dec.dtype), codes.indices)

    def decode(self, codes: Codes) -> Float[Tensor, "... d_in"]:
        """x̂ of given codes."""
        return weighted_sum(codes, self.W_dec) + self.b_dec

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """Reconstruct a training batch of normalised activations, which may be done for all tokens together.

        Args:
            x: the batch.
            firing: of the steps before this one.
        """
        raise NotImplementedError

    @torch.no_grad()
    def initialize_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Fit what is not random to a sample of normalised training activations.

        `b_dec` goes to their centre, and the encoder is scaled so that the first reconstructions have the
        best norm: unit directions that overlap would overshoot.
        """
        self._centre_(sample)
        self.start_sparse_(sample)
        centred, decoded = sample - self.b_dec, self(sample) - self.b_dec
        self.W_enc_rows.mul_((centred * decoded).sum() / decoded.pow(2).sum().clamp_min(1e-12))
        self.start_sparse_(sample)

    def start_sparse_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Set what decides whether latents are active, so that as many are as training aims at."""

    def before_step_(self) -> None:
        """Change gradients before the optimizer takes its step."""

    def after_step_(self) -> None:
        """Bring parameters back to what they may be, and move what follows the batches."""

    def pre_activations(
        self, x: Float[Tensor, "token d_in"], latents: Int64[Tensor, " latent"] | slice = ALL
    ) -> Float[Tensor, "token latent"]:
        """W_enc (x − b_dec) + b_enc, of all latents or of those chosen: what decides which are active."""
        return torch.addmm(self.b_enc[latents], self.centred(x), self.W_enc_rows[latents].t())

    def centred(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """What the encoder multiplies."""
        return x - self.b_dec if self.subtracts_b_dec else x

    @torch.no_grad()
    def _centre_(self, sample: Float[Tensor, "token d_in"]) -> None:
        if self.b_dec_init == "geometric_median":
            self.b_dec.copy_(geometric_median(sample))
        elif self.b_dec_init == "mean":
            self.b_dec.copy_(sample.mean(0))

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Scale every decoder row to unit norm, or to the one that it keeps."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
        if self.row_norms is not None:
            self.W_dec.mul_(self.row_norms)

    @torch.no_grad()
    def project_decoder_gradient_(self) -> None:
        """Take the part along each decoder row out of its gradient, which renormalising would undo anyway."""
        if self.W_dec.grad is not None:
            along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec).unsqueeze(1)
            if self.row_norms is not None:
                along /= self.row_norms.pow(2).clamp_min(1e-24)
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)


def active_above(sae: SparseAutoencoder, x: Float[Tensor, "token d_in"], l0: float) -> Float[Tensor, ""]:
    """The value that so many pre-activations per token are above, on average."""
    number = min(len(x) * sae.d_sae, max(1, round(l0 * len(x))))
    largest = x.new_empty(0)
    for part in x.split(max(1, _ELEMENTS // sae.d_sae)):
        pre = sae.pre_activations(part).flatten()
        found = torch.cat([largest, pre if len(largest) < number else pre[pre > largest.min()]])
        largest = found.topk(min(number, len(found)), sorted=False).values
    return largest.min()


@torch.no_grad()
def keep_row_norms_(sae: SparseAutoencoder) -> None:
    """Have every decoder row keep its norm, where that is not 1, as of SAEs trained elsewhere."""
    norms = sae.W_dec.norm(dim=1, keepdim=True)
    sae.row_norms = None if torch.allclose(norms, torch.ones_like(norms), atol=1e-3) else norms


def variance(x: Float[Tensor, "token d_in"]) -> Float[Tensor, ""]:
    """Σ‖x − mean x‖² over a batch: what its errors are fractions of."""
    return (x - x.mean(0)).pow(2).sum()


def geometric_median(
    points: Float[Tensor, "token d_in"], iterations: int = 50, tolerance: float = 1e-5
) -> Float[Tensor, " d_in"]:
    """The point of least summed distance to all points, by Weiszfeld's iteration from their mean."""
    median = points.mean(0)
    for _ in range(iterations):
        weights = 1 / (points - median).norm(dim=1, keepdim=True).clamp_min(1e-8)
        previous, median = median, (points * weights).sum(0) / weights.sum()
        if (median - previous).norm() <= tolerance * median.norm():
            break
    return median
