"""One way to replace the activation, and the list of those that an evaluation splices in."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sae_nfm.baselines.matched import Baseline


class Condition(NamedTuple):
    """One way to replace the activation; `clean` replaces nothing."""

    name: str
    """What the user calls it; nothing follows from it."""
    role: str
    """What it stands for, by which findings know it: its reconstruction's role, `clean` or `baseline`."""
    reconstruction: str | None
    """The name of what is spliced in or, of a baseline, of what it is matched to."""
    baseline: Baseline | None
    baseline_name: str | None
    draws: int


def conditions(
    roles: Mapping[str, str], baselines: Mapping[str, Baseline], matched: Sequence[str], draws: int
) -> list[Condition]:
    """`clean`, the reconstructions, and `baseline(reconstruction)` for each baseline and matched name.

    Args:
        roles: of the reconstructions, by name.
        baselines: by name.
        matched: the reconstructions that every baseline is matched to.
        draws: of each random baseline.
    """
    plain = [Condition(name, role, name, None, None, 1) for name, role in roles.items()]
    held_against = [
        Condition(f"{name}({target})", "baseline", target, baseline, name, draws if baseline.random else 1)
        for target in matched
        for name, baseline in baselines.items()
    ]
    return [Condition("clean", "clean", None, None, None, 1), *plain, *held_against]
