"""The divergence over the tokens that the model thinks likely, and the rest taken as one."""

from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.measures.divergence import top_n_divergence
from sae_nfm.settings.values import Count, checked
from sae_nfm.training.objectives.behaviour import Behaviour, Seen


@checked
class TopNKL(Behaviour):
    """KL over the clean run's n most likely tokens and all others as one event, in nats/token.

    Args:
        n: how many.
    """

    name = "top_n_kl"

    def __init__(self, n: Count = 10) -> None:
        self.n = n

    def per_token(
        self, clean: Seen, spliced: Seen, targets: Int64[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        """The divergence at every token."""
        log_p, log_q = clean.logits.log_softmax(-1), spliced.logits.log_softmax(-1)
        log_p, top = log_p.topk(min(self.n, log_p.shape[-1]), dim=-1)
        log_q = log_q.gather(-1, top)
        return top_n_divergence(log_p.exp(), log_q.exp(), log_p - log_q)
