"""What a finished stage leaves: weights as safetensors, and its figures."""

import errno
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sae_nfm.store.files import WEIGHTS as WEIGHTS

METRICS = "metrics.json"
_FULL = os.strerror(errno.ENOSPC)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_file(state, path)
    except SafetensorError as error:
        if _FULL in str(error):  # it keeps what the disk said as text alone
            raise OSError(errno.ENOSPC, _FULL, str(path)) from error
        raise


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a module's state from safetensors, into float32 or wider: what is stored is what is evaluated."""
    state = load_file(path)
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    module.to(torch.float64 if wide else torch.float32).load_state_dict(state)


def read_metrics(folder: Path) -> dict[str, float]:
    """The figures of a finished stage; none where it has none."""
    path = folder / METRICS
    return json.loads(path.read_text()) if path.exists() else {}
