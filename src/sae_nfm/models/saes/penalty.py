"""For ReLU SAEs and gated ones: an L1 penalty that follows a target L0, and the lift of what it silenced."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_nfm.models.saes.base import SparseAutoencoder, variance
from sae_nfm.models.saes.firing import Firing

START, GAIN, RATE = 0.1, 0.5, 0.03


def l1_term(
    active: Float[Tensor, " entry"], x: Float[Tensor, "token d_in"], firing: Firing, l0: float
) -> Float[Tensor, ""]:
    """λ times the mean of Σ f per token, in units of the tokens' root mean squared distance from their mean.

    Decoder rows have unit norm, so that this is Σ f‖W_dec‖. λ is under proportional and integral control: it
    is multiplied by the last step's excess of L0 over the target to the power of `GAIN`, and by that of every
    step so far to the power of `RATE`.

    Args:
        active: f where it is not 0, or what stands for it in a gated SAE.
        x: normalised activations.
        firing: of the steps before this one.
        l0: the target.
    """
    last, summed = firing.excess(l0)
    weight = START * (GAIN * last + RATE * summed).exp().to(x.dtype)
    return weight * active.sum() / (len(x) * variance(x)).sqrt()


def lift_terms(
    sae: SparseAutoencoder,
    x: Float[Tensor, "token d_in"],
    bias: Float[nn.Parameter, " d_sae"],
    dead: Bool[Tensor, " d_sae"],
    coefficient: float,
) -> dict[str, Float[Tensor, ""]]:
    """How far the pre-activations of dead latents are below 0, as a mean over all latents and tokens.

    Only their biases feel it, which rise until the latents fire again. Where none is dead there is no term.
    (As the penalty on pre-activations of Anthropic's update of January 2025, which every latent feels.)

    Args:
        sae: of latents that are active above 0.
        x: normalised activations.
        bias: of its pre-activations.
        dead: what is to be lifted.
        coefficient: weight in the loss.
    """
    if coefficient == 0 or not dead.any():
        return {}
    chosen = dead.nonzero().squeeze(1)
    with torch.no_grad():
        without_bias = sae.pre_activations(x, chosen) - bias[chosen]
    below = (-(without_bias + bias[chosen])).relu()
    return {"lift": coefficient * below.sum() / (len(x) * sae.d_sae)}
