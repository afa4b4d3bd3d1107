"""The rows of the report's tables, and the ratio table in the terminal."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from sae_nfm.report.conditions import COMPONENTS, described, grouped_conditions, label, of_role
from sae_nfm.report.estimates import (
    Estimate,
    condition_kl,
    estimate,
    format_estimate,
    format_value,
    kl_ratio,
    kl_reduction,
    lookup,
    mse_reduction,
    number,
)
from sae_nfm.report.headline import headline


class ConditionRow(NamedTuple):
    """What the ratio table says of one condition."""

    name: str
    words: str
    role: str
    reconstruction: str  # what is spliced in or, for a baseline, what it is matched to
    baseline: str | None
    kl: Estimate | None  # nats/token
    times_baseline: Estimate | None  # KL of the reconstruction over that of this baseline
    ce_increase: Estimate | None  # nats/token
    top1_agreement: Estimate | None
    median: Estimate | None  # of the KL, nats
    l2: Estimate | None  # mean length of the error
    cosine: Estimate | None  # of the replacement with the activation
    n: float | None  # measurements


class ComponentRow(NamedTuple):
    """What a part of the NFM brings, alone with the SAE."""

    name: str
    words: str
    kl: Estimate | None  # nats/token
    kl_reduction: Estimate | None  # against the SAE alone; None for the SAE itself
    mse_reduction: Estimate | None


class PairedTestRow(NamedTuple):
    """A paired comparison of two conditions' KL."""

    pair: str
    difference: Estimate | None  # nats/token
    worse: float | None  # share of positions at which the first condition's KL is higher
    cohens_d: float | None
    clustered: Mapping[str, Any]  # t, df, p: paired, errors clustered by document
    wilcoxon: Mapping[str, Any]  # statistic, p, n_documents
    p_holm: float | None
    as_published: Mapping[str, Any]  # t, p: unpaired, tokens taken as independent


def condition_rows(result: Mapping[str, Any]) -> list[ConditionRow]:
    """One row per condition, every reconstruction followed by its own matched baselines."""
    return [_condition_row(result, name) for names in grouped_conditions(result).values() for name in names]


def _condition_row(result: Mapping[str, Any], name: str) -> ConditionRow:
    what = described(result, name)
    found = result["conditions"][name]
    return ConditionRow(
        name=name,
        words=label(result, name),
        role=what.role,
        reconstruction=what.reconstruction,
        baseline=what.baseline,
        kl=condition_kl(result, name),
        times_baseline=kl_ratio(result, what.reconstruction, name) if what.baseline else None,
        ce_increase=estimate(found.get("ce_increase"), found.get("ce_increase_ci95")),
        top1_agreement=estimate(found.get("top1_agreement")),
        median=estimate(lookup(found, "kl", "median")),
        l2=estimate(found.get("l2")),
        cosine=estimate(found.get("cosine")),
        n=number(found.get("n")),
    )


def component_rows(result: Mapping[str, Any]) -> list[ComponentRow]:
    """The SAE, and the SAE with either part and with both parts of the NFM; empty without an NFM."""
    sae, *others = (of_role(result, role) for role in COMPONENTS)
    present = [name for name in (sae, *others) if name is not None]
    if sae is None or len(present) < 2:
        return []
    return [
        ComponentRow(
            name=name,
            words=label(result, name),
            kl=condition_kl(result, name),
            kl_reduction=kl_reduction(result, name) if name != sae else None,
            mse_reduction=mse_reduction(result, name) if name != sae else None,
        )
        for name in present
    ]


def paired_test_rows(result: Mapping[str, Any]) -> list[PairedTestRow]:
    """The tests of the study, in its order."""
    return [
        PairedTestRow(
            pair=f"{test.get('a')} - {test.get('b')}",
            difference=estimate(test.get("difference")),
            worse=number(lookup(result, "made_worse", f"{test.get('a')} vs {test.get('b')}", "fraction")),
            cohens_d=number(test.get("cohens_d")),
            clustered=test.get("paired_t_clustered") or {},
            wilcoxon=test.get("wilcoxon") or {},
            p_holm=number(test.get("p_holm")),
            as_published=test.get("unpaired_t_as_published") or {},
        )
        for test in result.get("tests") or []
    ]


def headline_ratios(result: Mapping[str, Any]) -> list[tuple[str, Estimate]]:
    """The ratios of mean KLs that the study recorded, by name."""
    read = {name: estimate(ratio) for name, ratio in (result.get("ratios") or {}).items()}
    return [(name, ratio) for name, ratio in read.items() if ratio is not None]


def headline_gains(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the NFM gains, named and formatted; empty without an NFM."""
    linear = lookup(result, "marginal_interaction", "against") or of_role(result, "linear")
    bound = of_role(result, "codes_bound")
    gains = (
        ("KL reduction by the NFM", lookup(result, "reduction"), 1, "%"),
        ("MSE reduction by the NFM", lookup(result, "mse_reduction"), 1, "%"),
        ("interactions beyond the linear part", lookup(result, "marginal_interaction", "absolute"), 3, ""),
        (f"  as a share of KL({linear})", lookup(result, "marginal_interaction", "share"), 1, "%"),
        (f"KL reduction as a share of {bound}'s", lookup(result, "share_of_codes_bound", "kl"), 0, "%"),
    )
    return [
        (name, format_estimate(read, minimum, unit) + ("" if unit else " nats/token"))
        for name, found, minimum, unit in gains
        if (read := estimate(found)) is not None
    ]


def print_ratios(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the ratio table: every condition's KL against its matched baselines, then the headline ratios.

    Args:
        result: the content of a study's `result.json`.
        console: where to print; the terminal if None.
    """
    console = console or _console()
    console.print(_ratio_table(result))
    headlines = Table.grid(padding=(0, 2))
    for name, ratio in headline_ratios(result):
        headlines.add_row(f"KL {name}", format_estimate(ratio, 2, "×"))
    for name, gain in headline_gains(result):
        headlines.add_row(name, gain)
    if (floor := number(result.get("noise_floor"))) is not None:
        headlines.add_row("noise floor, where nothing is replaced", f"{floor:.1g} nats/token")
    console.print(headlines)


def print_finding(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what was found in one sentence, with its interval.

    Args:
        result: the content of a study's `result.json`.
        console: where to print; the terminal if None.
    """
    (console or _console()).print(f"\n{headline(result)[0]}", style="bold", highlight=False, markup=False)


def _console() -> Console:
    """The terminal; a pipe has no width of its own, and rich's default of 80 would cut intervals."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def _ratio_table(result: Mapping[str, Any]) -> Table:
    title = f"{result.get('name') or 'study'}: KL(clean‖spliced), nats/token, 95% intervals over documents"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("condition", no_wrap=True)
    for heading in ("mean KL", "÷ baseline"):
        table.add_column(heading, justify="right", overflow="fold")
    for heading in ("CE +", "top-1"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=5)
    for row in condition_rows(result):
        table.add_row(
            f"  {row.name}" if row.baseline else row.name,
            format_estimate(row.kl),
            format_estimate(row.times_baseline, 2, "×") if row.baseline else "",
            format_value(row.ce_increase),
            format_value(row.top1_agreement, 1, "%"),
            style="" if row.baseline else "bold",
        )
    return table
