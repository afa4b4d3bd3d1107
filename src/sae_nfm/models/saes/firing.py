"""Which latents have not fired for how long."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn


class Firing(nn.Module):
    """Tokens since each latent fired last, counted over all processes; part of every checkpoint.

    Args:
        d_sae: number of latents.
    """

    tokens_since: Int64[Tensor, " d_sae"]

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.register_buffer("tokens_since", torch.zeros(d_sae, dtype=torch.int64))

    def silent_for(self, num_tokens: int) -> Bool[Tensor, " d_sae"]:
        """The latents that fired on none of the last `num_tokens` tokens: those that are called dead."""
        return self.tokens_since > num_tokens

    def count(self, fired: Bool[Tensor, " d_sae"], num_tokens: int) -> None:
        """Add a step's tokens, and which latents fired on any of them in any process."""
        self.tokens_since += num_tokens
        self.tokens_since[fired] = 0
