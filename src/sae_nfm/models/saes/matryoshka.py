"""The Matryoshka sparse autoencoder (Bussmann et al. 2025, "Learning multi-level features")."""

from collections.abc import Sequence

from sae_nfm.models.saes.base import Centre
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.settings.values import Count, Fraction, NonNegative, checked


@checked
class MatryoshkaSAE(BatchTopKSAE):
    """A BatchTopK SAE whose first latents are a dictionary of their own, as are the first of these.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        k: active latents per token, on average, of the full dictionary.
        prefixes: sizes of the nested dictionaries as fractions of `d_sae`; the full one is always added.
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
        prefixes: Sequence[Fraction] = (0.0625, 0.125, 0.25, 0.5),
        b_dec_init: Centre = "geometric_median",
        auxk: Count | None = None,
        auxk_coefficient: NonNegative = 0.125,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, k, b_dec_init, auxk, auxk_coefficient, dead_after)
        self.sizes = sorted({max(1, round(prefix * d_sae)) for prefix in prefixes} | {d_sae})
