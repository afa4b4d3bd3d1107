"""The TopK sparse autoencoder (Gao et al. 2024, "Scaling and evaluating sparse autoencoders")."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.codes import Codes, encode_topk
from sae_nfm.models.saes.auxk import auxk_terms
from sae_nfm.models.saes.base import Attempt, Centre, SparseAutoencoder
from sae_nfm.models.saes.firing import Firing
from sae_nfm.settings.values import Count, NonNegative, NotAllowed, checked


@checked
class TopKSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = relu(TopK_k(W_enc (x − b_dec) + b_enc)) and unit-norm decoder rows.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        k: active latents per token.
        b_dec_init: where `initialize_` puts the decoder bias.
        auxk: how many dead latents, at most, predict the residual of each token; None is half of d_in.
        auxk_coefficient: weight of that prediction's error in the loss; 0 leaves it out.
        dead_after: tokens without firing after which a latent counts as dead.

    Raises:
        NotAllowed: `k` is not between 1 and `d_sae`, or a setting is out of range.
    """

    def __init__(
        self,
        d_in: Count,
        d_sae: Count,
        k: Count,
        b_dec_init: Centre = "geometric_median",
        auxk: Count | None = None,
        auxk_coefficient: NonNegative = 0.125,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        if k > d_sae:
            raise NotAllowed("k", k, f"1 to d_sae={d_sae}")
        self.k = self.l0 = k
        self.auxk, self.auxk_coefficient, self.dead_after = auxk, auxk_coefficient, dead_after

    def encode(self, x: Float[Tensor, "... d_in"]) -> Codes:
        """The k active latents of every token."""
        centred = self.centred(x).flatten(0, -2)
        codes = encode_topk(centred, self.W_enc_rows, self.b_enc, self.k)
        return Codes(*(part.unflatten(0, x.shape[:-1]) for part in codes))

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The reconstruction, and AuxK where latents are dead."""
        codes = self.encode(x)
        reconstruction = self.decode(codes)
        active = codes.values > 0
        fired = torch.zeros(self.d_sae + 1, dtype=torch.bool, device=x.device)
        fired[torch.where(active, codes.indices, self.d_sae)] = True  # without waiting to know how many
        dead = firing.silent_for(self.dead_after)
        terms = auxk_terms(self, x, reconstruction, dead, self.auxk, self.auxk_coefficient)
        return Attempt(reconstruction, codes, fired[:-1], active.sum() / len(x), terms)

    def before_step_(self) -> None:
        """Keep the decoder's gradient orthogonal to its rows."""
        self.project_decoder_gradient_()

    def after_step_(self) -> None:
        """Bring the decoder's rows back to unit norm."""
        self.normalize_decoder_()
