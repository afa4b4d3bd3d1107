"""How latents fired in the steps so far."""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn


class Firing(nn.Module):
    """Which latents have been silent for how long, and how many fired, over all processes.

    It is part of every checkpoint, and of no dictionary.

    Args:
        d_sae: number of latents.
    """

    tokens_since: Int64[Tensor, " d_sae"]
    """Tokens since each latent fired last."""
    steps: Int64[Tensor, ""]
    log_l0: Float64[Tensor, ""]
    """Of the last step."""
    summed_log_l0: Float64[Tensor, ""]
    """Of all steps."""

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.register_buffer("tokens_since", torch.zeros(d_sae, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for name in ("log_l0", "summed_log_l0"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def silent_for(self, num_tokens: int) -> Bool[Tensor, " d_sae"]:
        """The latents that fired on none of the last `num_tokens` tokens: those that are called dead."""
        return self.tokens_since > num_tokens

    def excess(self, l0: float) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
        """By what factor L0 was above a target: its logarithm in the last step, and summed over all steps."""
        aim = torch.tensor(l0, dtype=torch.float64, device=self.steps.device).log()
        return torch.where(self.steps > 0, self.log_l0 - aim, 0), self.summed_log_l0 - self.steps * aim

    def count(self, fired: Bool[Tensor, " d_sae"], l0: Float[Tensor, ""], num_tokens: int) -> None:
        """Add a step.

        Args:
            fired: latents that fired on any token in any process.
            l0: active latents per token.
            num_tokens: of all processes.
        """
        self.tokens_since += num_tokens
        self.tokens_since[fired] = 0
        self.steps += 1
        self.log_l0.copy_(l0.double().clamp_min(1 / num_tokens).log())
        self.summed_log_l0 += self.log_l0
