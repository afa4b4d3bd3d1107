"""What a model does not have, or does not do, in the words of the settings."""

import torch
from torch import Tensor, nn

from sae_nfm.lm.site import HOOKS, Site
from sae_nfm.settings.values import NotAllowed

_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}
_CLOSE_IN_HALF = 0.05


def check_site(site: Site, context: int, path: str, n_layers: int, n_ctx: int) -> None:
    """Raise a `NotAllowed` that lists what a model has, if it lacks a site or a context length."""
    if site.hook not in HOOKS:
        raise NotAllowed("hook", site.hook, HOOKS)
    if not 0 <= site.layer < n_layers:
        raise NotAllowed("layer", site.layer, f"0 to {n_layers - 1}, the layers of {path}")
    if not 2 <= context <= n_ctx:
        raise NotAllowed("context", context, f"2 to {n_ctx}, the tokens that {path} takes")


def are_close(mine: Tensor, whole: Tensor) -> bool:
    """Whether logits are those of the whole model, but for rounding in its type."""
    close = _CLOSE.get(whole.dtype, _CLOSE_IN_HALF)
    return torch.allclose(mine, whole.to(mine.dtype), rtol=close, atol=close)


def not_finite(what: str, model: nn.Module, path: str, dtype: str) -> NotAllowed:
    """The error for what a model gave that is not finite; it says why, as far as can be told."""
    why = _broken_weight(model) or f"lm.dtype={dtype} is too narrow"
    allowed = "models, in a dtype, whose activations and logits are finite"
    return NotAllowed("lm.path", path, allowed, f"{what} hold NaN or infinity, because {why}")


def _broken_weight(model: nn.Module) -> str | None:
    """What is wrong with the first weight that is not finite; of those on disk nothing is known."""
    for name, weight in model.named_parameters():
        if not weight.is_meta and not weight.isfinite().all():
            return f"its weight {name} is not finite"
    return None
