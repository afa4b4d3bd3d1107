"""The divergence of the next-token distribution, which is what an evaluation measures."""

from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.training.objectives.behaviour import Behaviour, Seen


class KL(Behaviour):
    """KL(clean‖spliced) = Σ_v P(v) (log P(v) − log Q(v)), in nats/token (Braun et al. 2024, arXiv 2405.12241)."""

    name = "kl"

    def per_token(
        self, clean: Seen, spliced: Seen, targets: Int64[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        """The divergence at every token."""
        log_p, log_q = clean.logits.log_softmax(-1), spliced.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)
