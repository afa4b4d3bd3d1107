"""The part of a report that says which interactions the gain is due to."""

from collections.abc import Mapping, Sequence
from typing import Any

from sae_nfm.report.attributed import FEATURES, Attributed, Drawn, Pair, named_pairs, tiny
from sae_nfm.report.attribution_tables import account_table, latents_table, pairs_table, triples_table
from sae_nfm.report.estimates import Estimate, estimate, format_parts, lookup, number
from sae_nfm.report.page import Html, figure, join, tag

_CONTROLS = {
    "matched": "as many pairs matched to them in size and in how often they occur",
    "size": "as many pairs, the largest",
    "random": "as many pairs drawn at random",
}


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
            pairs_table(pairs),
            triples_table(found),
            *map(_shown, figures),
            account_table(found),
            latents_table(found),
        ]
    )


def _shown(one: Drawn) -> Html:
    return join([tag("h3", one.title), figure(one.path.with_suffix(".svg"), one.title, one.caption)])


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
    multiple = f": the first loss is {_in_words(times, '')} times the second" if times else ""
    worse = ", which is worse than no interactions" if alone and alone.value < 0 else ""
    return (
        f"Without the {necessity['size']:,} pairs that take most off on the half that chose, 1% of those "
        f"that occur{_among(found)}, the NFM loses {_in_words(away, '%')} of what its interactions gain on "
        f"the other; without {_CONTROLS[necessity['best_control']]}, {_in_words(control, '%')}{multiple}. "
        f"Alone these pairs give {_in_words(alone, '%')} of the gain{worse}."
    )


def _among(found: Mapping[str, Any]) -> str:
    """Of which latents the pairs are that were counted one by one, where these are not all."""
    all_counted = number(lookup(found, "estimated", "error")) is None
    return "" if all_counted else f" among the {found['settings']['busiest']:,} busiest latents"


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
        said.append(f"Against the gain as measured, the sum of all attributions is off by {tiny(gap)}.")
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
