"""How a model that is larger than a device is loaded: spread over several, or in fewer bits."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import distributed

from sae_nfm.settings.values import NotAllowed

DeviceMap = Literal["auto"] | dict[str, int | str] | None
Quantization = Literal["8bit", "4bit"] | None


@dataclass(frozen=True)
class Loading:
    """Where a model's weights are put, and in how many bits.

    Args:
        device_map: `auto` spreads them over all devices, the host and the disk; or a device, `cpu` or `disk`
            by the names of modules; None has them on the one device that computes.
        max_memory: of every device, as in `{0: 20GiB, cpu: 60GiB}`; None is what is free.
        offload_folder: for weights that are on disk.
        quantization: `8bit` or `4bit`, by bitsandbytes; None leaves them as they are in the files.
        blank: whether only shapes are made, and no weights looked for.

    Raises:
        NotAllowed: the settings contradict each other, or a package or a device for them is missing.
    """

    device_map: DeviceMap
    max_memory: dict[str, int | str] | None
    offload_folder: str | None
    quantization: Quantization
    blank: bool = False

    def __post_init__(self) -> None:
        if self.device_map is None:
            for name in ("max_memory", "offload_folder"):
                if (value := getattr(self, name)) is not None:
                    raise NotAllowed(name, value, "null, where device_map=null")
        elif distributed.is_initialized() and distributed.get_world_size() > 1:
            because = f"every one of {distributed.get_world_size()} processes has a model on its own device"
            raise NotAllowed("device_map", self.device_map, "null, or trainer.devices=1", because)
        if self.quantization is not None and find_spec("bitsandbytes") is None:
            allowed = "null, or with the package bitsandbytes: pip install 'sae-nfm[quantized]'"
            raise NotAllowed("quantization", self.quantization, allowed, "bitsandbytes is not installed")

    @property
    def is_plain(self) -> bool:
        """Whether the model is as it is in its files, and can be moved about."""
        return self.blank or (self.device_map is None and self.quantization is None)

    def settings(self, dtype: torch.dtype) -> dict[str, Any]:
        """What `from_pretrained` is to be told."""
        given = {
            "device_map": self.device_map,
            "max_memory": self.max_memory and _by_number(self.max_memory),
            "offload_folder": self.offload_folder,
            "quantization_config": self._quantization_config(dtype),
        }
        return {"dtype": dtype, **{name: value for name, value in given.items() if value is not None}}

    def refused(self, error: Exception) -> NotAllowed:
        """The error for what cannot be done with a model, or on this machine."""
        setting = "device_map" if self.quantization is None else "quantization"
        allowed = "null, or what transformers can do with this model on this machine"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return NotAllowed(setting, getattr(self, setting), allowed, reason)

    def _quantization_config(self, dtype: torch.dtype) -> Any:
        if self.quantization is None:
            return None
        from transformers import BitsAndBytesConfig

        if self.quantization == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _by_number(max_memory: dict[str, int | str]) -> dict[int | str, int | str]:
    """As it is given, but GPUs by their numbers, which settings have as text."""
    return {int(name) if name.isdigit() else name: most for name, most in max_memory.items()}
