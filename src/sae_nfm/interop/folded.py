"""An SAE's weights in the model's own units: its affine normaliser folded in, by SAELens's names of tensors.

In the normaliser's units x' = (x − μ)/s the encoder computes W(x' − b) + b_enc and the decoder Vf + b. In the
model's own that is W/s (x − (sb + μ)) + b_enc and sVf + (sb + μ).
"""

import torch
from torch import Tensor

from sae_nfm.models.autoencoder import Autoencoder

_BIASES = ("b_enc", "b_gate", "b_mag")  # what is added to W_enc x, or in b_mag to exp(r_mag) W_enc x


@torch.no_grad()
def folded(autoencoder: Autoencoder, subtracts_b_dec: bool | None = None) -> dict[str, Tensor]:
    """All tensors in float64: W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_dec, biases, threshold [d_sae].

    A normaliser of each token's own is not folded in.

    Args:
        autoencoder: of a normaliser and an SAE.
        subtracts_b_dec: whether the encoder is to read x − b_dec; None for what it does now.
    """
    sae, normalizer = autoencoder.sae, autoencoder.normalizer
    mean, scale = normalizer.mean.double(), normalizer.scale.double()
    weights = {name: tensor.double() for name, tensor in sae.state_dict().items()}
    weights["W_enc"] = (weights.pop("W_enc_rows") / scale).t()
    weights["W_dec"] = weights["W_dec"] * scale
    if not sae.subtracts_b_dec:
        _shift_input_(weights, mean)
    weights["b_dec"] = weights["b_dec"] * scale + mean
    if "threshold" in weights:
        weights["threshold"] = weights["threshold"].expand(sae.d_sae)
    if subtracts_b_dec is not None and subtracts_b_dec != sae.subtracts_b_dec:
        _shift_input_(weights, weights["b_dec"] if sae.subtracts_b_dec else -weights["b_dec"])
    return weights


def _shift_input_(weights: dict[str, Tensor], shift: Tensor) -> None:
    """Have the encoder subtract `shift` from what it reads."""
    shifted = shift @ weights["W_enc"]
    for name in weights.keys() & set(_BIASES):
        gain = weights["r_mag"].exp() if name == "b_mag" else 1
        weights[name] = weights[name] - gain * shifted


def unit_norm(weights: dict[str, Tensor], each: bool) -> dict[str, Tensor]:
    """The same reconstruction by decoder rows of unit norm and latents that are as much larger.

    Args:
        weights: as of `folded`.
        each: whether each latent may be scaled by a factor of its own. Where latents are compared with one
            another, as in TopK, that would change which are active: then all are scaled by the same, and rows
            whose norms differ stay as they are.
    """
    norms = weights["W_dec"].norm(dim=1)
    norms = torch.where(norms > 0, norms, 1)  # of a latent that does nothing
    if not each:
        common = norms.mean()
        norms = (common if torch.allclose(norms, common, rtol=1e-4) else torch.ones(())).to(norms)
        norms = norms.expand(len(weights["W_dec"]))
    scaled = {name: weights[name] * norms for name in weights.keys() & {*_BIASES, "threshold"}}
    W_enc, W_dec = weights["W_enc"] * norms, weights["W_dec"] / norms.unsqueeze(1)
    return weights | scaled | {"W_enc": W_enc, "W_dec": W_dec}
