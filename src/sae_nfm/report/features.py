"""The page that shows pairs of latents, their latents, and what the NFM repairs, in text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sae_nfm.report.attributed import FEATURES, SIGNS, Attributed, Pair, named_pairs, token_text
from sae_nfm.report.estimates import format_estimate
from sae_nfm.report.page import Html, details, join, page, tag
from sae_nfm.store.files import write_atomically

_OPEN = 3
"""Contexts that are seen without a click."""
_FULL = 0.6
"""Opacity of the strongest colour: text on it stays readable."""
_WHY = {
    "repaired": "among those the interactions repair most",
    "harmed": "among those they harm most",
    "any": "drawn at random",
}
_COLOURED_BY = {
    "interactions": "what the interactions repair",
    "nfm": "what the NFM repairs",
    "kl_sae": "KL(SAE)",
    "kl_nfm": "KL(SAE + NFM)",
}
_PAIR_NOTE = (
    "All text is of the half of the documents that did not choose the pairs. Blue: at this token the pair "
    "lowers the KL, here and later. Orange: it raises it. Fullest colour: the largest effect in the pair's "
    "contexts. Outlined: the largest in this context. Underlined: both latents are active. Under “more” and "
    "“less”: tokens whose probability to come next the pair changes most, and by how many percentage points, "
    "in the mean over the contexts where it does most."
)
_LATENT_NOTE = "Colour: how active the latent is, fullest at its largest activation. Outlined: the peak."
_PASSAGE_NOTE = (
    "A token's KL is that of the prediction of the token after it. The NFM repairs KL(SAE) − KL(SAE + NFM), "
    "its interactions KL(SAE + linear part) − KL(SAE + NFM). Blue: the KL falls. Orange: it rises, or how "
    "high it is. Point at a token, or move with ← and → in a passage, to read its numbers."
)
# What cards are sorted by: "-share" is by data-share, the largest first; "" leaves the page's own order.
_PAIR_ORDERS = {
    "": "confirmed first, then size",
    "-share": "share of gain",
    "-together": "tokens together",
    "+latent": "latent",
}
_LATENT_ORDERS = {"": "latent", "-pairs": "number of pairs", "-active": "largest activation"}
_PASSAGE_ORDERS = {"": "why they are here", "-sae": "KL(SAE)", "-repaired": "what the interactions repair"}

Look = Callable[[int], dict[str, str] | None]
"""Attributes of a token by its place; None leaves it plain."""


def write_features(name: str, attributed: Attributed, folder: Path) -> Path:
    """Write `features.html` beside the report, whole or not at all.

    Args:
        name: of the study.
        attributed: what its folder holds.
        folder: the study's run folder.
    """
    path = Path(folder) / FEATURES
    write_atomically(path, features_page(name, attributed))
    return path


def features_page(name: str, attributed: Attributed) -> str:
    """The page as text: the strongest pair, all pairs, their latents, passages."""
    pairs, words = named_pairs(attributed), attributed.words
    latents = (_latent(int(n), contexts, pairs) for n, contexts in words["latents"].items())
    return page(
        f"{name}: pairs of latents in text",
        tag("style", _resource("features.css")),
        tag("h1", name),
        *_lead(pairs),
        tag("p", tag("a", "Back to the report", href="report.html"), class_="facts"),
        _bar(),
        _section("Pairs", _PAIR_NOTE, _PAIR_ORDERS, map(_pair, pairs)),
        _section("Latents", _LATENT_NOTE, _LATENT_ORDERS, latents),
        _section("Text", _PASSAGE_NOTE, _PASSAGE_ORDERS, map(_passage, words["passages"]), _switch()),
        tag("output", id="readout", aria_live="polite"),
        tag("script", _resource("features.js")),
    )


def _resource(name: str) -> Html:
    return Html(resources.files("sae_nfm.report").joinpath(name).read_text(encoding="utf-8"))


def _lead(pairs: Sequence[Pair]) -> list[Html]:
    """The pair that matters most, in words and in its best context."""
    pair = next((pair for pair in pairs if pair.holds and pair.lowers), None)
    if pair is None:
        named = sum(pair.lowers for pair in pairs)
        said = f"No pair is confirmed: of the {named} that were named on one half of the documents, none"
        return [tag("p", f"{said} lowers the KL on the other half beyond chance.", class_="headline")]
    share = f", by {format_estimate(pair.share, 2, '%')} of what all interactions gain" if pair.share else ""
    link = tag("a", pair.name, href=f"#{pair.anchor}")
    said = (
        "That is on documents that had no say in its choice. Both latents are active at "
        f"{pair.together:,} tokens of them; {_confirmed(pair)}."
    )
    helps = [context for context in pair.contexts["most"] if context["taken_off"][context["peak"]] > 0]
    return [
        tag("p", "The pair that matters most: ", link, f" lowers the KL{share}.", class_="headline"),
        tag("p", said, class_="also"),
        _moves(pair),
        *_pair_runs(pair, helps[:1]),
    ]


def _confirmed(pair: Pair) -> str:
    p = "" if pair.p_holm is None else f" (p = {pair.p_holm:.2g} after Holm's correction)"
    return f"{'confirmed' if pair.holds else 'not confirmed'}{p}"


def _bar() -> Html:
    """Where to go on the page, and the search."""
    links = (tag("a", words, href=f"#{words.lower()}") for words in ("Pairs", "Latents", "Text"))
    search = Html(
        '<input id="search" type="search" placeholder="Search tokens, latents" aria-label="Search">'
    )
    return tag("nav", *links, search)


def _section(title: str, note: str, orders: Mapping[str, str], cards: Iterable[Html], *more: Html) -> Html:
    """A part of the page: cards that can be sorted and searched."""
    options = (tag("option", words, value=value) for value, words in orders.items())
    sort = tag("p", tag("label", "Sort by ", tag("select", *options)), " ", tag("span", class_="found"))
    about = tag("p", note, class_="note")
    return tag("section", tag("h2", title), about, sort, *more, *cards, id=title.lower())


def _card(title: Html, facts: Iterable[str], *body: Html, **attributes: str) -> Html:
    told = tag("p", *(tag("span", fact) for fact in facts), class_="told")
    return tag("article", tag("h3", title), told, *body, **attributes)


def _folded(runs: Sequence[Html], seen: int) -> Html:
    """Contexts, those beyond the first few behind a click."""
    more = runs[seen:]
    return join([*runs[:seen], details(f"{len(more)} more", *more) if more else Html()])


def _pair(pair: Pair) -> Html:
    name = join([_latent_link(pair.i), " × ", _latent_link(pair.j)])
    most, some = (_pair_runs(pair, pair.contexts[kind]) for kind in ("most", "any"))
    facts = (
        f"{pair.does} the KL" if pair.holds else f"named because it {pair.does} the KL",
        f"{format_estimate(pair.share, 2, '%')} of the gain",
        _confirmed(pair),
        f"together at {pair.together:,} tokens",
    )
    return _card(
        name, facts, _moves(pair),
        tag("h4", "Where it does most"), _folded(most, _OPEN),
        tag("h4", "Where it occurs, at random"), _folded(some, 1),
        id=pair.anchor, class_=f"{pair.does} {'holds' if pair.holds else 'open'}",
        data_share=str(pair.share.value if pair.share else 0),
        data_together=str(pair.together), data_latent=str(pair.i),
    )  # fmt: skip


def _latent_link(latent: int) -> Html:
    return tag("a", str(latent), href=f"#latent-{latent}")


def _moves(pair: Pair) -> Html:
    """Tokens that the pair makes more and less probable, in percentage points."""

    def listed(way: str, words: str) -> Html:
        moved = ((token_text(one["token"]), 100 * one["probability"]) for one in pair.moves[way])
        tokens = (tag("span", tag("code", token), f" {points:+.2g}") for token, points in moved)
        return tag("p", tag("em", words), *tokens)

    return tag("div", listed("up", "more"), listed("down", "less"), class_="moves")


def _pair_runs(pair: Pair, contexts: Iterable[Mapping[str, Any]]) -> list[Html]:
    """Contexts, each token in the colour of what the pair takes off the KL there."""
    every = (context for some in pair.contexts.values() for context in some)
    largest = max((abs(value) for context in every for value in context["taken_off"]), default=0.0) or 1.0

    def run(context: Mapping[str, Any]) -> Html:
        def look(place: int) -> dict[str, str] | None:
            value, kind = context["taken_off"][place], "raises"
            if context["product"][place] <= 0:
                return None
            if value >= 0:
                kind = "lowers"
            return _colour(kind, abs(value) / largest, f"{kind} the KL by {abs(value):.3g} nats")

        return _run(context, look)

    return [run(context) for context in contexts]


def _latent(latent: int, contexts: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]) -> Html:
    of = [pair for pair in pairs if latent in (pair.i, pair.j)]
    largest = max((value for context in contexts for value in context["active"]), default=0.0) or 1.0

    def run(context: Mapping[str, Any]) -> Html:
        def look(place: int) -> dict[str, str] | None:
            value = context["active"][place]
            return _colour("active", value / largest, f"activation {value:.3g}") if value > 0 else None

        return _run(context, look)

    links = [tag("a", pair.name, href=f"#{pair.anchor}") for pair in of]
    return _card(
        join([f"Latent {latent}"]),
        [join(["in ", *(join([", " if n else "", link]) for n, link in enumerate(links))]),
         f"largest activation {largest:.3g}"],
        _folded([run(context) for context in contexts], _OPEN),
        id=f"latent-{latent}", data_pairs=str(len(of)), data_active=str(largest),
    )  # fmt: skip


def _colour(kind: str, share: float, title: str) -> dict[str, str]:
    """Attributes of a token whose value is a share of the largest."""
    return {"class_": kind, "style": f"--a:{_FULL * share:.2f}", "title": title}


def _run(context: Mapping[str, Any], look: Look) -> Html:
    """A context in a paragraph of its own, its peak outlined."""
    tokens = []
    for place, token in enumerate(context["tokens"]):
        attributes = look(place)
        if attributes is not None and place == context["peak"]:
            attributes["class_"] += " peak"
        tokens.append(_token(token, attributes))
    return tag("p", *tokens, class_="run")


def _token(token: str, attributes: Mapping[str, str] | None) -> Html:
    """A token in running text; where nothing of it could be seen, a sign stands for it."""
    shown = join([token.translate(SIGNS)]) if token.strip() else tag("i", token_text(token))
    return shown if attributes is None else tag("b", shown, **attributes)


def _passage(passage: Mapping[str, Any]) -> Html:
    kl, scored = passage["kl"], passage["scored"]
    names = ("sae", "sae_linear", "sae_nfm")
    sae, linear, nfm = (sum(kl[name]) / max(1, sum(scored)) for name in names)

    def look(place: int) -> dict[str, str] | None:
        return {"data_kl": " ".join(f"{kl[name][place]:g}" for name in names)} if scored[place] else None

    tokens = (_token(token, look(place)) for place, token in enumerate(passage["tokens"]))
    told = f"{sae:.3g} nats/token with the SAE, {linear:.3g} with the linear part, {nfm:.3g} with the NFM"
    return _card(
        join([f"Block {passage['block']}"]),
        [_WHY[passage["why"]], f"mean KL {told}"],
        tag("p", *tokens, class_="run passage", tabindex="0"),
        data_sae=str(sae), data_repaired=str(linear - nfm),
    )  # fmt: skip


def _switch() -> Html:
    """What colours the passages."""
    buttons = (tag("button", words, type="button", data_by=by) for by, words in _COLOURED_BY.items())
    return tag("p", "Colour: ", *buttons, " ", tag("span", id="fullest"), class_="switch")
