"""What later layers see."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.settings.values import NonNegative, checked
from sae_nfm.training.objectives.behaviour import Seen
from sae_nfm.training.objectives.kl import KL


@checked
class Downstream(KL):
    """Squared error of the later layers' residual streams, and some of the divergence.

    Mean over the layers behind the site of ‖ĥ − h‖²/‖h‖², a fraction without unit, plus a weight times
    KL(clean‖spliced): `e2e+downstream` of Braun et al. 2024 (arXiv 2405.12241), there without the division.

    Args:
        kl: weight of the divergence.
    """

    name = "downstream"
    reads_streams = True

    def __init__(self, kl: NonNegative = 0.5) -> None:
        self.kl = kl

    def per_token(
        self, clean: Seen, spliced: Seen, targets: Int64[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        """The loss at every token."""
        wide = torch.promote_types(clean.streams.dtype, torch.float32)  # ‖h‖² is beyond a half's range
        h, spliced_h = clean.streams.to(wide), spliced.streams.to(wide)
        error = (spliced_h - h).pow(2).sum(-1) / h.pow(2).sum(-1)
        return error.mean(0) + self.kl * super().per_token(clean, spliced, targets)
