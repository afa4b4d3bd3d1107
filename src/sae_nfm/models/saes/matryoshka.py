"""The Matryoshka sparse autoencoder (Bussmann et al. 2025, "Learning multi-level features")."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.entries import Entries, sums
from sae_nfm.models.saes.base import Attempt, Centre, variance
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.models.saes.firing import Firing
from sae_nfm.settings.values import Count, Fraction, NonNegative, checked


@checked
class MatryoshkaSAE(BatchTopKSAE):
    """A BatchTopK SAE whose first latents are a dictionary of their own, as are the first of these.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        k: active latents per token, on average, of the full dictionary.
        prefixes: sizes of the nested dictionaries as fractions of `d_sae`; the full one is always added.
        prefix_coefficient: weight of each smaller dictionary's error in the loss.
        b_dec_init: where `initialize_` puts the decoder bias.
        auxk: how many dead latents, at most, predict the residual of each token; None is half of d_in.
        auxk_coefficient: weight of that prediction's error in the loss; 0 leaves it out.
        dead_after: tokens without firing after which a latent counts as dead.

    Raises:
        NotAllowed: `k` is not between 1 and `d_sae`, or a setting is out of range.
    """

    family = "matryoshka"

    def __init__(
        self,
        d_in: Count,
        d_sae: Count,
        k: Count,
        prefixes: Sequence[Fraction] = (0.0625, 0.125, 0.25, 0.5),
        prefix_coefficient: NonNegative = 0.25,
        b_dec_init: Centre = "geometric_median",
        auxk: Count | None = None,
        auxk_coefficient: NonNegative = 0.125,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, k, b_dec_init, auxk, auxk_coefficient, dead_after)
        self.prefix_coefficient = prefix_coefficient
        self.sizes = sorted({max(1, round(prefix * d_sae)) for prefix in prefixes} | {d_sae})

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The full dictionary's reconstruction, and the errors of those that are nested in it."""
        active = self.largest(x)
        *smaller, full = self.nested(active, len(x)).unbind(1)
        attempt = self.attempted(x, active, full, firing)
        if smaller:
            errors = sum((x - reconstruction).pow(2).sum() for reconstruction in smaller)
            attempt.terms["prefixes"] = self.prefix_coefficient * errors / variance(x)
        return attempt

    def nested(self, active: Entries, num_tokens: int) -> Float[Tensor, "token size d_in"]:
        """The reconstruction by every nested dictionary, from the smallest: one sum more each."""
        ends = torch.tensor(self.sizes, device=active.latents.device)
        bags = active.tokens * len(ends) + torch.bucketize(active.latents, ends, right=True)
        rings = sums(active, bags, num_tokens * len(ends), self.W_dec)
        return rings.unflatten(0, (num_tokens, len(ends))).cumsum(1) + self.b_dec
