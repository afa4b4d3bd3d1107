"""AuxK: dead latents predict what the living ones leave (Gao et al. 2024), so that some come back to life."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_nfm.models.codes import Codes, weighted_sum
from sae_nfm.models.largest import largest
from sae_nfm.models.saes.base import SparseAutoencoder


def auxk_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "token d_in"],
    reconstruction: Float[Tensor, "token d_in"],
    dead: Bool[Tensor, " d_sae"],
    k: int,
) -> Float[Tensor, ""]:
    """Fraction of the residual x − x̂, held fixed, that the dead latents' attempt at it leaves.

    Args:
        sae: its encoder and decoder rows of the dead latents get the gradient.
        x: normalised activations.
        reconstruction: of the living latents.
        dead: at least one latent.
        k: dead latents that take part on each token, at most.
    """
    residual = (x - reconstruction).detach()
    predicted = reconstruct_with(sae, x, dead, k)
    auxk = (residual - predicted).pow(2).sum() / residual.pow(2).sum()
    return torch.nan_to_num(auxk, nan=0.0)


def auxk_terms(
    sae: SparseAutoencoder,
    x: Float[Tensor, "token d_in"],
    reconstruction: Float[Tensor, "token d_in"],
    dead: Bool[Tensor, " d_sae"],
    k: int | None,
    coefficient: float,
) -> dict[str, Float[Tensor, ""]]:
    """AuxK as a term of the loss, by its coefficient; none where no latent is dead. None is half of d_in."""
    if coefficient == 0 or not dead.any():
        return {}
    k = sae.d_in // 2 if k is None else k
    return {"auxk": coefficient * auxk_loss(sae, x, reconstruction, dead, k)}


def reconstruct_with(
    sae: SparseAutoencoder, x: Float[Tensor, "token d_in"], latents: Bool[Tensor, " d_sae"], k: int
) -> Float[Tensor, "token d_in"]:
    """The sum W_dec f, without `b_dec`, over the k largest of the given latents only.

    The pre-activations are computed for these latents alone, and the gradient reaches their encoder rows.
    """
    chosen = latents.nonzero().squeeze(1)
    pre = sae.pre_activations(x, chosen)
    values, indices = largest(pre, min(k, len(chosen)))
    return weighted_sum(Codes(values.relu(), indices), sae.W_dec[chosen])
