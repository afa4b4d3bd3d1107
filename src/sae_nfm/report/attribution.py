"""The part of a report that says which interactions the gain is due to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sae_nfm.report.estimates import Estimate, estimate, format_parts, format_value, lookup, number
from sae_nfm.report.page import Html, figure, join, number_cell, number_headings, table, tag

FEATURES = "features.html"
"""The page of contexts, beside the report."""
_LEVEL = 0.05
_TOKENS = 3
_CONTROLS = {
    "matched": "as many pairs matched to them in size and in how often they occur",
    "size": "as many pairs, the largest",
    "random": "as many pairs drawn at random",
}
_PATHS = {
    "interactions": ("SAE + linear part → SAE + NFM", "constant and sets of latents"),
    "error": ("SAE → activation", "linear part, interactions and rest"),
    "linear": ("SAE → SAE + linear part", "latents"),
    "sae": ("decoder's bias → SAE", "latents"),
}
SIGNS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥"})
"""For what cannot be seen of a token."""
_SHARES = (
    "Share of gain: of KL(SAE + linear part) − KL(SAE + NFM) on the half that did not choose; negative "
    "where the pair adds to the KL. Bold: holds there, one-sided p < 0.05 after Holm's correction. Tokens: "
    "those that the pair makes more, and less, probable to come next, by most."
)


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


def attribution_part(attributed: Attributed, figures: Sequence[Drawn]) -> Html:
    """The part, from the answer to the checks."""
    found, pairs = attributed.found, named_pairs(attributed)
    link = tag("a", "The same pairs in text", href=FEATURES)
    return join(
        [
            tag("h2", "Which interactions the gain is due to"),
            *(tag("p", sentence, class_="also") for sentence in _answer(found, pairs)),
            *(tag("p", sentence) for sentence in [*_planted(found), *_checks(found)]),
            tag("p", link, ": where each does most, and what it makes of the next token."),
            _pairs(pairs),
            *(join([tag("h3", one.title), figure(one.path, one.title, one.caption)]) for one in figures),
            _account(found),
        ]
    )


def _answer(found: Mapping[str, Any], pairs: Sequence[Pair]) -> list[str]:
    lower, harm = ([pair for pair in pairs if pair.lowers == lowers] for lowers in (True, False))
    said = (
        f"One half of the held-out documents named the {len(lower)} pairs of latents that most surely lower "
        f"the KL; on the other half {_count(lower)} of them {_verb(lower, 'lower')} it "
        "(one-sided p < 0.05 after Holm's correction)"
    )
    of_harm = f", and {_count(harm)} of {len(harm)} named as raising it {_verb(harm, 'raise')} it"
    answer = [f"{said}{of_harm if harm else ''}."]
    necessity = lookup(found, "curves", "necessity")
    if necessity is not None and estimate(necessity["taken_away"]) is not None:
        answer.append(_necessity(found, necessity))
    return answer


def _necessity(found: Mapping[str, Any], necessity: Mapping[str, Any]) -> str:
    """What the best pairs take away, against the best control, and what they give alone."""
    away, control, times = (
        estimate(necessity[name]) for name in ("taken_away", "of_best_control", "times_best_control")
    )
    best = found["curves"]["orders"]["attribution"]
    alone = estimate(best["given_alone"][best["sizes"].index(necessity["size"])])
    worse = ", which is worse than no interactions" if alone and alone.value < 0 else ""
    return (
        f"Without the {necessity['size']:,} pairs that take most off on the half that chose, 1% of those "
        f"that occur, the NFM loses {_in_words(away, '%')} of what its interactions gain on the other; "
        f"without {_CONTROLS[necessity['best_control']]}, {_in_words(control, '%')}: the first loss is "
        f"{_in_words(times, '')} times the second. Alone these pairs give {_in_words(alone, '%')} of the "
        f"gain{worse}."
    )


def _planted(found: Mapping[str, Any]) -> list[str]:
    """Whether pairs that were put there are those that are found."""
    planted = found.get("planted")
    if planted is None:
        return []
    away = _in_words(estimate(planted["taken_away"]), "%")
    return [
        f"Control: of the {len(planted['pairs'])} pairs that were planted, {planted['recall']:.0%} are among "
        f"as many that take most off on the half that did not choose; without the best of the half that "
        f"chose, {away} of the gain is gone."
    ]


def _count(pairs: Sequence[Pair]) -> str:
    return str(sum(pair.holds for pair in pairs) or "none")


def _verb(pairs: Sequence[Pair], verb: str) -> str:
    """As it follows the number of those that hold."""
    return verb if sum(pair.holds for pair in pairs) > 1 else f"{verb}s"


def _in_words(shown: Estimate | None, unit: str) -> str:
    value, interval = format_parts(shown, 1, unit)
    between = interval.strip("[]").replace(", ", " to ")
    return f"{value} (95% interval {between})" if between else value


def _checks(found: Mapping[str, Any]) -> list[str]:
    """How far the attributions are to be trusted."""
    gap = number(lookup(found, "completeness", "interactions", "gap"))
    singles = found["single_pairs"]
    rank = number(singles["spearman"]["both_ways"])
    said = []
    if gap is not None:
        said.append(f"Against the gain as measured, the sum of all attributions is off by {_tiny(gap)}.")
    if rank is not None:
        said.append(
            f"Against the ablation of {singles['pairs']:,} single pairs, attribution has a rank correlation "
            f"of {rank:.2f} (Spearman)."
        )
    return [" ".join(said), *(_seed(seed, len(found["named"])) for seed in found["further_seeds"])]


def _seed(other: Mapping[str, Any], named: int) -> str:
    rank = number(other["spearman"])
    correlation = "" if rank is None else f"the rank correlation of what they take off is {rank:.2f}, "
    return (
        f"Against an NFM of seed {other['seed']} on the same SAE and documents, over the {other['pairs']:,} "
        f"pairs that occur often enough: {correlation}{100 * other['top_hundredth_in_common']:.0f}% of the "
        f"top 1% of pairs are the same ({100 * other['by_chance']:.0f}% by chance), and "
        f"{other['named_in_common']} of the {named} named."
    )


def _tiny(share: float) -> str:
    return "less than 0.01%" if abs(share) < 1e-4 else f"{100 * abs(share):.2g}%"


def _pairs(pairs: Sequence[Pair]) -> Html:
    numbers = number_headings("share of gain", "tokens together", "p after Holm")
    headings = ["latents", "the KL", *numbers, "more probable", "less probable"]
    return join([table(headings, map(_pair_line, pairs)), tag("p", _SHARES, class_="note")])


def _pair_line(pair: Pair) -> Html:
    link = tag("a", pair.name, href=f"{FEATURES}#{pair.anchor}")
    moved = (pair.moves[way][:_TOKENS] for way in ("up", "down"))
    return tag(
        "tr",
        tag("td", tag("strong", link) if pair.holds else link, class_="name"),
        tag("td", pair.does),
        number_cell(pair.share, 2, "%"),
        tag("td", f"{pair.together:,}", class_="number"),
        tag("td", "–" if pair.p_holm is None else f"{pair.p_holm:.2g}", class_="number"),
        *(
            tag("td", *(join([tag("code", token_text(t["token"])), "\u2003"]) for t in tokens))
            for tokens in moved
        ),
    )


def _account(found: Mapping[str, Any]) -> Html:
    """What adds up to what, and how nearly."""
    positions = sum(found["positions"].values())
    numbers = number_headings("fall of the KL, nats/token", "sum of the parts", "off by")
    made = (
        tag(
            "tr",
            tag("td", name),
            number_cell(estimate(part["value"])),
            number_cell(estimate(part["share"]), 1, "%"),
        )
        for name, part in found["made_of"].items()
    )
    gaps = (
        tag(
            "tr",
            *(tag("td", words) for words in _PATHS[path]),
            *(
                tag("td", format_value(Estimate(gap[name] / positions), 4), class_="number")
                for name in ("change", "sum")
            ),
            tag("td", "–" if gap["gap"] is None else _tiny(gap["gap"]), class_="number"),
        )
        for path, gap in found["completeness"].items()
    )
    return join(
        [
            tag("h3", "Does it add up?"),
            table(["part of the gain", *number_headings("nats/token", "share")], made),
            table(["way", "parts", *numbers], gaps),
            tag("p", "On all documents of both halves.", class_="note"),
        ]
    )
