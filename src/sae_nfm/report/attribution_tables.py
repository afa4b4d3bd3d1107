"""The tables of a report's part on interactions."""

from collections.abc import Mapping, Sequence
from typing import Any

from sae_nfm.report.attributed import FEATURES, Pair, tiny, token_text
from sae_nfm.report.estimates import Estimate, estimate, format_value
from sae_nfm.report.page import Html, join, number_cell, number_headings, table, tag

_TOKENS, _LATENTS = 3, 15
_PATHS = {
    "interactions": ("SAE + linear part → SAE + NFM", "constant and sets of latents"),
    "error": ("SAE → activation", "linear part, interactions and rest"),
    "linear": ("SAE → SAE + linear part", "latents"),
    "sae": ("decoder's bias → SAE", "latents"),
}
_SHARES = (
    "Share of gain: of KL(SAE + linear part) − KL(SAE + NFM) on the half that did not choose; negative "
    "where the pair adds to the KL. Bold: holds there, one-sided p < 0.05 after Holm's correction. Tokens: "
    "those that the pair makes more, and less, probable to come next, by most."
)


def pairs_table(pairs: Sequence[Pair]) -> Html:
    """The pairs that were named, and what became of them on the other half."""
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


def account_table(found: Mapping[str, Any]) -> Html:
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
            tag("td", "–" if gap["gap"] is None else tiny(gap["gap"]), class_="number"),
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


def triples_table(found: Mapping[str, Any]) -> Html:
    """The triples that take most off the KL, of an NFM that has any."""
    triples = found.get("triples")
    if triples is None:
        return join([])
    lines = (
        tag("tr", tag("td", " × ".join(map(str, one["latents"])), class_="name"), _nats(one["taken_off"]))
        for one in triples["heaviest"]
    )
    note = (
        "On the half that did not choose. All triples are summed in a sketch of bounded size, by which each "
        f"of these may be off by {triples['error']:.2g}."
    )
    return join(
        [
            tag("h3", "Triples"),
            table(["latents", *number_headings("taken off the KL, nats/token")], lines),
            tag("p", note, class_="note"),
        ]
    )


def latents_table(found: Mapping[str, Any]) -> Html:
    """The single latents that change the KL most, in the SAE and in the linear part, side by side."""
    latents = found.get("latents")
    if latents is None:
        return join([])
    parts = [latents[part][:_LATENTS] for part in ("sae", "linear")]
    lines = (tag("tr", *(cell for one in line for cell in _latent(one))) for line in zip(*parts, strict=True))
    numbers = number_headings("taken off the KL, nats/token", "tokens")
    note = "On all documents of both halves; negative where the latent adds to the KL."
    return join(
        [
            tag("h3", "Single latents"),
            table(["in the SAE", *numbers, "in the linear part", *numbers], lines),
            tag("p", note, class_="note"),
        ]
    )


def _latent(one: Mapping[str, Any]) -> list[Html]:
    active = tag("td", f"{one['active']:,}", class_="number")
    return [tag("td", str(one["latent"]), class_="name"), _nats(one["taken_off"]), active]


def _nats(value: float) -> Html:
    return tag("td", format_value(Estimate(value), 5), class_="number")
