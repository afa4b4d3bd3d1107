"""Where activations are read and reconstructions written."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

HOOKS = ("resid_pre", "resid_post", "mlp_out", "attn_out")


@dataclass(frozen=True)
class Site:
    """Where activations are read and reconstructions written: a layer (from 0) and a hook point in it."""

    layer: int
    hook: str

    @property
    def name(self) -> str:
        """TransformerLens's name of the hook point."""
        return f"blocks.{self.layer}.hook_{self.hook}"


class Prefix(NamedTuple):
    """What the prefix leaves for a site."""

    activation: Float[Tensor, "block pos d_model"]
    """The activation at the site."""
    resid: Float[Tensor, "block pos d_model"]
    """The residual stream that enters the suffix's first layer; the activation itself if that is it."""
