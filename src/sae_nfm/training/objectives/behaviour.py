"""What objectives through the model share: a loss of what the spliced model does, token by token."""

from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor


class Seen(NamedTuple):
    """What a run of the model shows at some tokens."""

    logits: Float[Tensor, "token d_vocab"]
    """In float32 or wider."""
    streams: Float[Tensor, "layer token d_model"]
    """The residual stream after every layer behind the site; no layer where the objective reads none."""


class Behaviour:
    """A loss of what the spliced model does, next to what the clean one does.

    A subclass is one file: a formula per token, in float32 or wider. What is trained for it is run through
    the rest of the model, block by block.

    Attributes:
        name: as the settings know it.
        reads_clean: whether the clean run's outputs are read.
        reads_streams: whether residual streams of later layers are.
        adds_reconstruction: whether the squared error of the activation is added, weighted to count as much.
    """

    name: ClassVar[str]
    reads_clean: ClassVar[bool] = True
    reads_streams: ClassVar[bool] = False
    adds_reconstruction: ClassVar[bool] = False

    def per_token(
        self, clean: Seen, spliced: Seen, targets: Int64[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        """The loss at every token, differentiable in what the spliced run shows.

        Args:
            clean: the clean run; meaningless where `reads_clean` is false.
            spliced: the run with the replacement.
            targets: the token that follows; -1 where none does.
        """
        raise NotImplementedError
