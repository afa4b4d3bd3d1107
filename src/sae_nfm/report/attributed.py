"""What an attribution left in a study's folder, as the report reads it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sae_nfm.report.estimates import Estimate, estimate, number

FEATURES = "features.html"
"""The page of contexts, beside the report."""
_LEVEL = 0.05
SIGNS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥"})
"""For what cannot be seen of a token."""


class Attributed(NamedTuple):
    """What an attribution wrote into a study's folder."""

    found: Mapping[str, Any]
    """`attribution.json`."""
    words: Mapping[str, Any]
    """`attribution/contexts.json`."""


class Drawn(NamedTuple):
    """A figure, with what a reader needs to know of it."""

    path: Path
    title: str
    caption: str


class Pair(NamedTuple):
    """A pair that one half of the documents named, and what the other half says of it."""

    i: int
    j: int
    lowers: bool
    """The KL, on the half that named it; else it raises it."""
    share: Estimate | None
    """Of the gain."""
    together: int
    """Tokens at which both latents are active."""
    p_holm: float | None
    moves: Mapping[str, Sequence[Mapping[str, Any]]]
    """Tokens that it makes more (`up`) and less (`down`) probable."""
    contexts: Mapping[str, Sequence[Mapping[str, Any]]]
    """Where it does `most`, and `any` of those where it occurs."""

    @property
    def holds(self) -> bool:
        """Whether the other half confirms it."""
        return self.p_holm is not None and self.p_holm < _LEVEL

    @property
    def size(self) -> float:
        """Of its share of the gain; 0 where that is unknown."""
        return abs(self.share.value) if self.share else 0.0

    @property
    def name(self) -> str:
        """Its latents."""
        return f"{self.i} × {self.j}"

    @property
    def anchor(self) -> str:
        """Its id on the page of contexts."""
        return f"pair-{self.i}-{self.j}"

    @property
    def does(self) -> str:
        """To the KL, in a word."""
        return "lowers" if self.lowers else "raises"


def read(folder: Path) -> Attributed | None:
    """What a study's folder holds; None if its gain was not attributed."""
    paths = (folder / "attribution.json", folder / "attribution" / "contexts.json")
    if not all(path.is_file() for path in paths):
        return None
    return Attributed(*(json.loads(path.read_text(encoding="utf-8")) for path in paths))


def named_pairs(attributed: Attributed) -> list[Pair]:
    """The pairs that were named: those that hold first, and of these those that lower the KL, by share."""
    words = {tuple(pair["latents"]): pair for pair in attributed.words["pairs"]}
    pairs = []
    for kind in ("named", "harmful"):
        for entry in attributed.found[kind]:
            i, j = entry["latents"]
            shown = words[i, j]
            share, p = estimate(entry.get("share_of_gain")), number(entry.get("p_holm"))
            of = (share, entry["together"], p, shown["moves"], shown["contexts"])
            pairs.append(Pair(i, j, kind == "named", *of))
    return sorted(pairs, key=lambda pair: (not pair.holds, not pair.lowers, -pair.size))


def token_text(token: str) -> str:
    """A token that stands alone: its spaces and line ends are seen."""
    return token.translate(SIGNS).replace(" ", "·") or "∅"


def tiny(share: float) -> str:
    """A gap, as a share, in words."""
    return "less than 0.01%" if abs(share) < 1e-4 else f"{100 * abs(share):.2g}%"
