"""A line of a plan."""

from typing import NamedTuple

from sae_nfm.planning.costs import Memory
from sae_nfm.planning.workshop import Planned


class Line(NamedTuple):
    """What making one thing takes."""

    planned: Planned
    operations: float
    seconds: float
    memory: Memory

    def as_json(self) -> dict[str, float]:
        """What time and operations it takes."""
        return {"operations": self.operations, "seconds": self.seconds}
