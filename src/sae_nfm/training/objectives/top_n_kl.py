"""The divergence over the tokens that the model thinks likely, and the rest taken as one."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.settings.values import Count, checked
from sae_nfm.training.objectives.behaviour import Behaviour, Seen

_NOTHING = 1e-30


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
        p_rest, q_rest = ((1 - each.exp().sum(-1)).clamp_min(_NOTHING) for each in (log_p, log_q))
        of_top = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
        return of_top + p_rest * (p_rest / q_rest).log()
