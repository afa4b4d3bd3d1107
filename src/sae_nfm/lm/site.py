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

    @property
    def layers_read(self) -> int:
        """How many of the model's layers compute the activation."""
        return self.layer + (self.hook != "resid_pre")

    def layer_entered(self, n_layers: int) -> int | None:
        """The layer whose whole input the activation is, or None if a hook has to put it in place."""
        if self.hook == "resid_pre":
            return self.layer
        is_last = self.layer == n_layers - 1
        return self.layer + 1 if self.hook == "resid_post" and not is_last else None


class Prefix(NamedTuple):
    """What the prefix leaves for a site."""

    activation: Float[Tensor, "block pos d_model"]
    """The activation at the site."""
    resid: Float[Tensor, "block pos d_model"]
    """The residual stream that enters the suffix's first layer; the activation itself if that is it."""
