"""The stages that train the dictionary."""

from typing import Any

from sae_nfm.recipes.course import Step
from sae_nfm.recipes.training import take
from sae_nfm.recipes.workshop import Workshop

_OF_AN_NFM = ("order", "d_embed", "linear", "interaction", "fit")


class Train:
    """Trains, loads or finds parts of the study's dictionary.

    Args:
        step: which, and how.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.name = step, step.name

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """What was trained for what, on how many tokens; and what the parts are that came of it."""
        name = take(self.step, workshop.own, workshop)
        if name is None:
            return {}
        metrics = workshop.metrics.get(name, {})
        stage = {
            "parts": sorted(self.step.trained(workshop.own)),
            "objective": None if self.step.learning is None else self.step.learning.name,
            "train_tokens": _count(metrics.get("train_tokens")),
            "artifact": workshop.artifacts[name]["fingerprint"],
        }
        return {"stages": {self.step.name: stage}, **self._about(metrics, workshop)}

    def obtain(self, workshop: Workshop) -> None:
        """What is trained."""
        take(self.step, workshop.own, workshop)

    def _about(self, metrics: dict[str, float], workshop: Workshop) -> dict[str, Any]:
        own, found = workshop.own, {}
        tokens, speed = _count(metrics.get("train_tokens")), metrics.get("tokens_per_s")
        if self.step.how in ("make", "begin") and "sae" in self.step.parts:
            sae = own.autoencoder.sae
            size = {"k": sae.k} if hasattr(sae, "k") else {}
            found = {"sae": {"family": sae.family, "d_sae": sae.d_sae, **size, "train_tokens": tokens}}
        if self.step.how in ("fit", "begin") and "interaction" in self.step.parts and own.node is not None:
            shown = {key: own.node[key] for key in _OF_AN_NFM}
            found |= {"nfm": shown | {"train_tokens": tokens}}
        return found | {"timing": {f"{self.step.name}_tokens_per_s": speed}}


def _count(tokens: float | None) -> int | None:
    return None if tokens is None else int(tokens)
