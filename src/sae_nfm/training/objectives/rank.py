"""The order of the likeliest tokens."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

from sae_nfm.settings.values import Positive, Several, checked
from sae_nfm.training.objectives.behaviour import Behaviour, Seen


@checked
class Rank(Behaviour):
    """Mean of log(1 + exp(σ(z_j − z_i))) over the pairs of the clean top n tokens, i before j, in nats/pair.

    z are the spliced logits: the pairwise logistic loss of RankNet (Burges et al. 2005; σ as in Burges 2010)
    on the clean order. The larger σ, the less it asks of pairs that are in order by a margin already.

    Args:
        n: how many tokens.
        sharpness: σ.
    """

    name = "rank"

    def __init__(self, n: Several = 10, sharpness: Positive = 2.0) -> None:
        self.n, self.sharpness = n, sharpness

    def per_token(
        self, clean: Seen, spliced: Seen, targets: Int64[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        """The loss at every token."""
        n = min(self.n, clean.logits.shape[-1])
        logits = spliced.logits.gather(-1, clean.logits.topk(n, dim=-1).indices)
        before, after = torch.triu_indices(n, n, offset=1, device=logits.device)
        return softplus(self.sharpness * (logits[:, after] - logits[:, before])).mean(-1)
