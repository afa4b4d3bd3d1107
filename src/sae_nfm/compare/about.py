"""What studies were made on and by which command: said once where they share it."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import PurePath
from typing import Any, NamedTuple

from sae_nfm.report.estimates import lookup, number
from sae_nfm.report.page import flatten

FEW_DOCUMENTS = 200
"""Below, intervals over documents may be too narrow."""
_MOST_NAMED = 3
# what is scored, of which options and names of files tell a part
_SCORED = re.compile(r"(evaluation\.)?corpus\.|(evaluation\.(context|bos|replace|position)|skip_positions)$")


class About(NamedTuple):
    """Model, site and text of a study; empty or None where its result does not say."""

    model: str
    site: str
    corpus: str
    context: int | None
    positions: int | None
    documents: int | None
    command: str
    scored: str
    """The settings of the text and of the positions in it, as JSON."""

    @property
    def ground(self) -> tuple[str, str, str, int | None, str]:
        """What has to be equal for one study's KL to be better or worse than another's."""
        return self.model, self.site, self.corpus, self.context, self.scored

    @property
    def is_small(self) -> bool:
        """Whether it is of so few documents that its intervals may be too narrow."""
        return self.documents is not None and self.documents < FEW_DOCUMENTS


def read_about(result: Mapping[str, Any]) -> About:
    """What a result says of where it comes from."""
    layer, hook = lookup(result, "site", "layer"), lookup(result, "site", "hook")
    text, scored = _text(result, "corpus"), _text(result, "corpus@evaluation.corpus")
    counts = (number(result.get(key)) for key in ("context", "positions", "documents"))
    context, positions, documents = (None if count is None else int(count) for count in counts)
    return About(
        model=PurePath(str(lookup(result, "lm", "path") or "")).name,
        site="" if layer is None else f"layer {layer} {hook or ''}".strip(),
        corpus=f"{text} (scored on {scored})".strip() if scored else text,
        context=context,
        positions=positions,
        documents=documents,
        command=str(result.get("command") or ""),
        scored=_scored(result.get("settings") or {}),
    )


def _text(result: Mapping[str, Any], group: str) -> str:
    """A corpus by its option and the name of its file; empty where there is none."""
    path = lookup(result, "settings", *group.rpartition("@")[2].split("."), "path")
    names = (lookup(result, "choices", group), PurePath(path).name if isinstance(path, str) else None)
    return " ".join(name for name in names if isinstance(name, str) and name != "null")


def _scored(settings: Mapping[str, Any]) -> str:
    """Without what is null: a study that is older than a setting has none."""
    there = {key: value for key, value in flatten(settings).items() if value is not None}
    return json.dumps({key: there[key] for key in sorted(there) if _SCORED.match(key)})


def facts(studies: Sequence[About]) -> list[str]:
    """What the studies were made on, in a few words each."""
    found = [
        _same([study.model for study in studies], "models", str),
        _same([study.site for study in studies], "sites", str),
        _same([study.corpus for study in studies], "corpora", "corpus {}".format),
        _same([study.context for study in studies], "contexts", "context {}".format),
        _range([study.positions for study in studies], "positions per condition"),
        _range([study.documents for study in studies], "documents"),
    ]
    return [words for words in found if words]


def _same(values: Sequence[Any], plural: str, say: Callable[[Any], str]) -> str:
    """The value that all share, or how many there are, by name where they are few."""
    there = list(dict.fromkeys(value for value in values if value not in ("", None)))
    if len(there) < 2:
        return "".join(map(say, there))
    named = f" ({', '.join(map(str, there))})" if len(there) <= _MOST_NAMED else ""
    return f"{len(there)} {plural}{named}"


def _range(values: Sequence[int | None], unit: str) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return ""
    low, high = min(there), max(there)
    return f"{low:,} {unit}" if low == high else f"{low:,} to {high:,} {unit}"


def shared_command(commands: Sequence[str]) -> str | None:
    """One command that runs all the studies, as a sweep over what differs between theirs.

    Returns:
        The command; None where there is no such one, because the studies are not every combination of the
        values, or not all of the same settings.
    """
    written = [_by_key(command) for command in commands]
    if not all(written) or len({frozenset(each) for each in written}) > 1:
        return None
    values = {key: list(dict.fromkeys(each[key] for each in written)) for key in written[0]}
    distinct = {tuple(each.values()) for each in written}
    if len(distinct) < len(written) or prod(map(len, values.values())) != len(written):
        return None
    if any("," in value for these in values.values() if len(these) > 1 for value in these):
        return None  # a sweep would take it for two
    start = ["python", "-m", "sae_nfm", *(["-m"] if len(written) > 1 else [])]
    return shlex.join([*start, *(f"{key}={','.join(these)}" for key, these in values.items())])


def _by_key(command: str) -> dict[str, str]:
    """The overrides of a command; none of one that is not ours."""
    words = shlex.split(command)
    if words[:3] != ["python", "-m", "sae_nfm"] or not all("=" in word for word in words[3:]):
        return {}
    return dict(word.split("=", 1) for word in words[3:])
