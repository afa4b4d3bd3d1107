"""One way to replace the activation, and the list of those that an evaluation splices in."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sae_nfm.baselines.matched import Baseline


class Condition(NamedTuple):
    """One way to replace the activation; `clean` replaces nothing."""

    name: str
    reconstruction: str | None
    baseline: Baseline | None
    draws: int


def conditions(
    reconstructions: Sequence[str], baselines: Mapping[str, Baseline], matched: Sequence[str], draws: int
) -> list[Condition]:
    """`clean`, the reconstructions, and `baseline(reconstruction)` for each baseline and matched name."""
    plain = [Condition(name, name, None, 1) for name in reconstructions]
    held_against = [
        Condition(f"{name}({target})", target, baseline, draws if baseline.random else 1)
        for target in matched
        for name, baseline in baselines.items()
    ]
    return [Condition("clean", None, None, 1), *plain, *held_against]
