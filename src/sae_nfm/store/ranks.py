"""The processes of one study, and what the first of them decides for all."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Ranks:
    """The one process that is a study by itself; `sae_nfm.store.distributed` has several."""

    rank = 0
    world_size = 1
    device: Any = "cpu"
    """Where this process computes."""

    @property
    def is_first(self) -> bool:
        """Whether this process decides, writes and prints."""
        return self.rank == 0

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, in all of them."""
        return compute()

    def gathered(self, value: T) -> list[T]:
        """What every process has, in all of them."""
        return [value]

    def check_equal(self, fingerprint: str) -> None:
        """Raise an error if not every process composed the same settings."""
