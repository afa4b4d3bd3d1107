"""The training stages of a study as data, and dictionaries on their way through them.

A study's own dictionary has all parts. A control goes the same way without some of them, or with others in
their place: what it is trained on, for what and how long is then equal by construction, and what both have in
common is made once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.recipes.recipe import Foundation
from sae_nfm.training.learning import Learning
from sae_nfm.training.parts import Part

How = Literal["make", "solve", "fit", "tune", "begin"]


@dataclass(frozen=True)
class Step:
    """One stage of the training.

    Args:
        name: as the settings know it.
        how: `make` an SAE by its own recipe; `solve` the linear part; `fit` the NFM to the residual of the
            frozen SAE; `tune` parts further, together; `begin` with parts that are trained together from
            scratch.
        parts: what it trains.
        learning: how; None where it is solved.
    """

    name: str
    how: How
    parts: frozenset[Part]
    learning: Learning | None

    def trained(self, candidate: "Candidate") -> frozenset[Part]:
        """What it trains of a dictionary that may lack some parts.

        A control that lacks all that is trained for an objective is trained for it with what it has.
        """
        chosen = self.parts & candidate.there
        stands_in = not chosen and not candidate.is_own and self.how in ("tune", "begin")
        return candidate.there if stands_in else chosen


@dataclass
class Candidate:
    """A dictionary on its way through the stages.

    Args:
        name: of a control; `nfm` for the study's own.
        there: the parts that it has.
        node: settings of its model of the residual; None where it has none.
        build: such a model, untrained, for so many latents and so wide a residual.
        rounds: on how many times the tokens that model is fitted.
        wider: parameters of an SAE in place of the study's; None is the study's.

    Attributes:
        foundation: its SAE, as soon as there is one.
        nfm: its model of the residual, likewise.
        nfm_fingerprint: of that.
        linear: figures of the model's solved linear part.
    """

    name: str
    there: frozenset[Part]
    node: dict[str, Any] | None = None
    build: Callable[[int, int], ResidualModel] | None = None
    rounds: int = 1
    wider: int | None = None
    foundation: Foundation | None = None
    nfm: ResidualModel | None = None
    nfm_fingerprint: str | None = None
    linear: Mapping[str, float] | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is the study's own, and no control."""
        return self.name == OWN

    @property
    def autoencoder(self) -> Autoencoder:
        """All that is made of it."""
        assert self.foundation is not None
        sae = self.foundation.autoencoder
        return Autoencoder(sae.normalizer, sae.sae, self.nfm, sae.plant)


OWN = "nfm"
"""The name of the study's own dictionary, which its NFM's artifacts have."""
