"""The prediction of the text itself."""

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from sae_nfm.training.objectives.behaviour import Behaviour, Seen


class CE(Behaviour):
    """−log Q(next token), in nats/token; 0 where a block ends. The clean run is not asked."""

    name = "ce"
    reads_clean = False

    def per_token(
        self, clean: Seen, spliced: Seen, targets: Int64[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        """The loss at every token."""
        return cross_entropy(spliced.logits, targets, reduction="none", ignore_index=-1)
