"""What a stage is."""

from typing import Any, Protocol

from sae_nfm.recipes.workshop import Workshop


class Stage(Protocol):
    """One step of a study."""

    name: str

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Do it with what the stages before have made, and return its part of `result.json`.

        The parts of all stages are merged, entry by entry.
        """
        ...

    def obtain(self, workshop: Workshop) -> None:
        """Ask the workshop for all that the stage needs, and do no more."""
        ...
