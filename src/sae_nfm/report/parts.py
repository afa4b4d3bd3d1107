"""The parts of a report: each says what it found, shows it, and lists the numbers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_nfm.report.answers import by_document, by_position, compared, dictionary, precision, training, worst
from sae_nfm.report.conditions import of_role
from sae_nfm.report.estimates import Estimate, format_parts, number
from sae_nfm.report.headline import against_random, bound, gain, headline, marginal_gain
from sae_nfm.report.page import Html, amount, details, drawing, join, stacked, tag
from sae_nfm.report.tables import (
    ComponentRow,
    ConditionRow,
    PairedTestRow,
    component_rows,
    condition_rows,
    paired_test_rows,
)

Drawings = Mapping[str, Path]
"""SVGs by the names of their figures; any may be absent."""

_CAPTIONS = {
    "kl_by_condition": "Filled: what replaces the activation. Open: its own matched baselines, drawn at each "
    "token at that reconstruction's error.",
    "kl_vs_mse_reduction": "Reductions are against the SAE alone. Above the diagonal, a correction removes "
    "the part of the error that matters to the LM.",
    "kl_by_position": "Differences are paired by token; bars are 95% intervals over groups of documents. "
    "The last position of a block is left out: no token follows it, and a model that was trained on such "
    "blocks never learnt to predict there.",
    "kl_by_document": "Each document counts once, whatever its length. The outermost bars hold what lies "
    "beyond.",
    "training_curves": "Left: mean over each hundredth of the steps. Right: validation documents; a stage "
    "keeps the weights of its best validation, the start included. Shaded: the end that is "
    "judged flat or not.",
}


def conditions_part(result: Mapping[str, Any], drawn: Drawings) -> Html:
    """Every reconstruction against its own matched baselines."""
    said = _beside_the_headline(result, worst(result), against_random(result), precision(result))
    headings = (
        "condition",
        "mean KL",
        "÷ baseline",
        "median KL",
        "CE increase",
        "top-1",
        "L2 error",
        "cosine",
    )
    rows = [_condition_line(row) for row in condition_rows(result)]
    shown = [_drawing(drawn, "kl_by_condition"), stacked(headings, rows) if rows else Html()]
    return _part("How far does each reconstruction move the model?", said, *shown)


def _condition_line(row: ConditionRow) -> tuple[str, Html, Sequence[Html | None]]:
    values = [
        _value(row.kl),
        _value(row.times_baseline, 2, "×") if row.baseline else None,
        _value(row.median),
        _value(row.ce_increase),
        _value(row.top1_agreement, 1, "%"),
        _value(row.l2, 2),
        _value(row.cosine),
    ]
    kind = "baseline" if row.baseline else "reconstruction"
    return kind, join([row.words.rpartition(": ")[2], tag("code", row.name)]), values


def components_part(result: Mapping[str, Any], drawn: Drawings) -> Html:
    """What each part of the NFM brings."""
    said = _beside_the_headline(result, gain(result), marginal_gain(result), bound(result))
    rows = [_component_line(row) for row in component_rows(result)]
    headings = ("what replaces the activation", "mean KL", "KL reduction", "residual explained")
    shown = [stacked(headings, rows) if rows else Html(), _drawing(drawn, "kl_vs_mse_reduction")]
    return _part("Is the gain linear, or of interactions?", said, *shown)


def _component_line(row: ComponentRow) -> tuple[str, Html, Sequence[Html | None]]:
    reductions = (_value(each, 1, "%") if each else None for each in (row.kl_reduction, row.mse_reduction))
    return "reconstruction", join([row.words, tag("code", row.name)]), [_value(row.kl), *reductions]


def spread_parts(result: Mapping[str, Any], drawn: Drawings) -> Html:
    """Where the gain is: along the block, and among the documents."""
    along, across = _said(by_position(result)), by_document(result)
    return join(
        [
            _part("Does the gain depend on the position?", along, _drawing(drawn, "kl_by_position")),
            _part("Is it in few documents, or in all?", across, _drawing(drawn, "kl_by_document")),
        ]
    )


def training_part(result: Mapping[str, Any], drawn: Drawings) -> Html:
    """How good the SAE is, and whether each stage came to its end."""
    said, stages = _said(dictionary(result)), training(result)
    lines = tag("ul", *(tag("li", stage) for stage in stages)) if stages else Html()
    shown = [lines, _drawing(drawn, "training_curves")]
    title = "How good is the SAE, and was each part trained to its end?" if stages else "How good is the SAE?"
    return _part(title, said, *shown)


def tests_part(result: Mapping[str, Any]) -> Html:
    """What was held against what: in words, and the numbers behind a click."""
    rows = paired_test_rows(result)
    if not rows:
        return Html()
    method = (
        "Differences are paired by token, errors are clustered by document, and p-values are those of Holm "
        f"for the family of these {len(rows)} tests; below 0.05 is beyond chance."
    )
    words = [sentence for test in _main_tests(result) if (sentence := compared(result, test))]
    numbers = details(
        "All tests in numbers",
        stacked(_TEST_HEADINGS, map(_test_line, rows)),
        tag("p", _TEST_NOTE, class_="note"),
    )
    listed = tag("ul", *(tag("li", sentence) for sentence in words))
    return join([tag("h2", "What was compared with what?"), tag("p", method), listed, numbers])


_TEST_HEADINGS = (
    "pair",
    "difference of mean KL",
    "KL higher at",
    "Cohen's d",
    "paired t, clustered",
    "Wilcoxon p",
    "p after Holm",
    "unpaired t, as published",
)
_TEST_NOTE = (
    "“KL higher at”: the share of positions where the first of the pair has the higher KL. Wilcoxon: on the "
    "documents' means. The unpaired t takes tokens as independent, as the published analysis did; it is here "
    "for comparison, not as evidence."
)


def _main_tests(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of the SAE and of the NFM, which answer what the page asks; all where there are none of these."""
    main = {of_role(result, "sae"), of_role(result, "nfm")}
    return [test for test in result["tests"] if test.get("a") in main] or list(result["tests"])


def _test_line(row: PairedTestRow) -> tuple[str, Html, Sequence[Html]]:
    values = [
        _value(row.difference),
        amount("–" if row.worse is None else f"{100 * row.worse:.1f}%"),
        amount("–" if row.cohens_d is None else f"{row.cohens_d:.2f}"),
        _t_and_p(row.clustered),
        amount(format_p(row.wilcoxon.get("p"))),
        amount(format_p(row.p_holm)),
        _t_and_p(row.as_published),
    ]
    return "test", tag("span", row.pair), values


def format_p(p: Any) -> str:
    """A p-value; one that underflowed is given as a bound."""
    read = number(p)
    if read is None:
        return "–"
    return "< 1e-300" if read < 1e-300 else f"{read:.2g}"


def _part(title: str, said: Iterable[str], *shown: Html) -> Html:
    """A heading, what was found in sentences, and what shows it; nothing where there is neither."""
    sentences = [tag("p", sentence, class_="also") for sentence in said]
    if not sentences and not any(shown):
        return Html()
    return join([tag("h2", title), *sentences, *shown])


def _said(*sentences: str | None) -> list[str]:
    return [sentence for sentence in sentences if sentence]


def _beside_the_headline(result: Mapping[str, Any], *sentences: str | None) -> list[str]:
    """Those that are said, but for the one that stands above the page."""
    return [sentence for sentence in _said(*sentences) if sentence != headline(result)[0]]


def _drawing(drawn: Drawings, name: str) -> Html:
    return drawing(drawn[name], name.replace("_", " "), _CAPTIONS[name]) if name in drawn else Html()


def _value(shown: Estimate | None, minimum: int = 3, unit: str = "") -> Html:
    return amount(*format_parts(shown, minimum, unit))


def _t_and_p(test: Mapping[str, Any]) -> Html:
    t, freedom = number(test.get("t")), number(test.get("df"))
    degrees = f" (df {freedom:,.0f})" if freedom is not None else ""
    return amount("–" if t is None else f"t = {t:,.1f}{degrees}", f"p {format_p(test.get('p'))}")
