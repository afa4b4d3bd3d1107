"""A workshop that makes nothing, and remembers what it was asked for."""

from dataclasses import dataclass
from typing import TypeVar

from sae_nfm.recipes.recipe import Demand
from sae_nfm.recipes.workshop import StudyRecipe, Workshop
from sae_nfm.store.store import fingerprint
from sae_nfm.training.weights import read_metrics

T = TypeVar("T")


@dataclass(frozen=True)
class Planned:
    """One thing that a study needs.

    Args:
        name: that it has in the study.
        kind: the folder of its artifact.
        fingerprint: of its artifact.
        there: whether it is there already.
        demand: what making it takes.
    """

    name: str
    kind: str
    fingerprint: str
    there: bool
    demand: Demand


class PlannedWorkshop(Workshop):
    """Gives what is there, and blanks of the same shapes for what is not.

    Attributes:
        planned: everything that was asked for, once, in order.
    """

    planned: list[Planned]
    _of_seed = ""
    """What tells names of another seed's things from the study's own."""

    @classmethod
    def of(cls, workshop: Workshop) -> "PlannedWorkshop":
        """One that plans what another would make."""
        planned = cls(workshop.store, workshop.activations, workshop.run, workshop.order)
        planned.planned = []
        return planned

    def reseeded(self, seed: int) -> Workshop:
        """As of every workshop; what the other is asked for is remembered here."""
        other = PlannedWorkshop.of(super().reseeded(seed))
        other.planned, other._of_seed = self.planned, f", seed {seed}"
        return other

    def obtain(self, name: str, recipe: StudyRecipe[T]) -> T:
        """What is there, or a blank."""
        identity = fingerprint(recipe.spec())
        folder = self.store.root / recipe.kind / identity
        there = folder.exists()
        if (recipe.kind, identity) not in {(each.kind, each.fingerprint) for each in self.planned}:
            named = name + self._of_seed
            self.planned.append(Planned(named, recipe.kind, identity, there, recipe.demand()))
        self.artifacts[name] = {"kind": recipe.kind, "fingerprint": identity, "path": str(folder)}
        self.metrics[name] = read_metrics(folder) if there else {}
        return recipe.load(folder) if there else recipe.blank()

    def warn(self, warning: str) -> None:
        """Say nothing: what is there was warned of when it was made."""
