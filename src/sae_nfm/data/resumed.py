"""What training data have in common: they are dealt from any step on, to any number of processes."""

from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset


class ResumedModule(LightningDataModule):
    """Training and validation data that go on from the step of a checkpoint.

    Args:
        tokens_per_step: over all processes.
    """

    def __init__(self, tokens_per_step: int) -> None:
        super().__init__()
        self.tokens_per_step, self.step = tokens_per_step, 0

    def dealt(self, step: int, rank: int, world_size: int) -> IterableDataset:
        """Endless training batches of one process, from a step on."""
        raise NotImplementedError

    def held_out(self, rank: int, world_size: int) -> IterableDataset:
        """The part of the validation data of one process, which all have in as many pieces."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The step that the data have to go on from."""
        assert self.trainer is not None
        return {"step": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's step."""
        self.step = state_dict["step"]

    def train_dataloader(self) -> DataLoader:
        """Endless batches; the trainer's `max_steps` ends them."""
        assert self.trainer is not None
        dealt = self.dealt(self.step, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(dealt, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """Held-out data, every process its own part."""
        assert self.trainer is not None
        return DataLoader(self.held_out(self.trainer.global_rank, self.trainer.world_size), batch_size=None)
