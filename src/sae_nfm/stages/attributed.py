"""What the passes of an attribution found, put together and written down."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_nfm.attribution import shown
from sae_nfm.attribution.choosing import Choice
from sae_nfm.attribution.effects import moved_tokens
from sae_nfm.attribution.sums import SETS, PairTable
from sae_nfm.attribution.task import AttributionTask
from sae_nfm.findings import attribution as findings
from sae_nfm.findings.result import finite
from sae_nfm.store.files import replacing, write_atomically

FIGURES = "attribution.json"
_ANCHOR = "a"  # before a token, whose space some tokenizers drop at the start of a text
FOLDER, SHOWN, PAIRS = "attribution", "contexts.json", "pairs.parquet"


class Passes(NamedTuple):
    """Both passes over the documents, each over its half."""

    first: AttributionTask
    second: AttributionTask
    choice: Choice
    table: PairTable
    """Of the first."""
    lengths: Tensor
    """‖c_ij‖ at f_i f_j = 1 of the pairs in `table`."""


def figures(passes: Passes, settings: Any, left_out: int, further: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that `attribution.json` holds.

    Args:
        passes: finished.
        settings: of the attribution.
        left_out: blocks with documents of both halves.
        further: what other NFMs on the same SAE name.
    """
    first, second, choice, table, _ = passes
    one, two = first.sums, second.sums
    assert two.sets is not None
    assert two.singles is not None
    half = findings.Half.of(two.parts.compute())
    whole = findings.Half.of(findings.together(one.parts.compute(), two.parts.compute()))
    chose, verified = whole.tokens.sum() - half.tokens.sum(), half.tokens.sum()
    found = {
        "schema": findings.SCHEMA,
        "settings": vars(settings),
        "positions": {"choosing": int(chose), "verifying": int(verified)},
        "documents": {"choosing": len(whole.tokens) - len(half.tokens), "verifying": len(half.tokens)},
        "left_out_blocks": left_out,
        **findings.accounted(whole, [SETS[order] for order in first.interactions.orders]),
        "concentration": findings.concentration(table),
        "estimated": {"pairs": int((table.together < 0).sum()), "error": table.error},
        **_named(passes, half),
        "curves": findings.curves(choice, two.sets.compute(), half),
        "single_pairs": findings.single_pairs(two.singles.compute()),
        "further_seeds": further,
        "seconds": {"choosing": first.seconds, "verifying": second.seconds},
    }
    if one.latents is not None and two.latents is not None:
        sums = findings.together(one.latents.compute(), two.latents.compute())
        found["latents"] = findings.latents(sums, float(whole.tokens.sum()))
    plant = second.autoencoder.plant
    if plant is not None and plant.kind == "pairs":
        found["planted"] = findings.planted(two.pairs.compute(), plant.tuples.cpu(), choice, found["curves"])
    if two.triples is not None:
        found["triples"] = findings.triples(two.triples.compute(), float(verified))
    return found


def _named(passes: Passes, half: findings.Half) -> dict[str, Any]:
    first, second, choice, table, _ = passes
    assert second.sums.chosen is not None
    chosen = second.sums.chosen.compute()
    lengths = first.interactions.lengths(choice.named)
    return {
        name: findings.named_pairs(choice, name == "harmful", table, chosen, lengths, half)
        for name in ("named", "harmful")
    }


def in_short(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `result.json` repeats."""
    passed = [pair["latents"] for pair in found["named"] if pair["p_holm"] < 0.05]
    keys = ("positions", "documents", "gain", "share_of_linear", "made_of", "completeness")
    return {
        **{key: found[key] for key in keys},
        "necessity": found["curves"]["necessity"],
        "spearman": found["single_pairs"]["spearman"],
        "named": len(found["named"]),
        "confirmed": passed,
        **({"planted": found["planted"]} if "planted" in found else {}),
        "further_seeds": found["further_seeds"],
        "seconds": sum(found["seconds"].values()),
    }


def in_words(
    passes: Passes, contexts: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """Contexts and passages in words, and what every named pair does to the prediction."""
    anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False)

    @cache
    def decode(token: int) -> str:
        return str(tokenizer.decode([*anchor, int(token)])).removeprefix(str(tokenizer.decode(anchor)))

    pairs, named = [], passes.choice.named
    for place, latents in enumerate(named.tolist()):
        kept = {name: some[place] for name, some in contexts["pairs"].items()}
        moved = moved_tokens(passes.second, latents, kept["most"])
        words = {
            name: [
                {"token": decode(one.token), "probability": one.probability, "logit": one.logit}
                for one in some
            ]
            for name, some in moved.items()
        }
        pairs.append({"latents": latents, "moves": words, "contexts": shown.contexts_of_pair(kept, decode)})
    of_latents = {
        str(latent): shown.contexts_of_latent(kept, decode)
        for latent, kept in zip(named.unique().tolist(), contexts["latents"], strict=True)
    }
    return {"pairs": pairs, "latents": of_latents, "passages": shown.passages(contexts["passages"], decode)}


def write(found: Mapping[str, Any], words: Mapping[str, Any], passes: Passes, folder: Path) -> None:
    """Write the figures last: where they are, all is."""
    with replacing(folder / FOLDER / PAIRS) as partial:
        pq.write_table(_pairs(passes), partial)
    write_atomically(folder / FOLDER / SHOWN, json.dumps(finite(words), ensure_ascii=False, allow_nan=False))
    write_atomically(folder / FIGURES, json.dumps(finite(found), indent=1, allow_nan=False))


def _pairs(passes: Passes) -> pa.Table:
    """All pairs of the busiest latents that occur in either half, and the heaviest of the others.

    Sums are in nats, beside the tokens at which both latents are active. Of a pair beyond the busiest these
    are -1, and its sums NaN in a half that did not keep it: there it may have any.
    """
    sums = passes.second.sums.pairs
    halves = {"choosing": passes.table, "verifying": sums.compute()}
    keys = {name: (table.i * sums.d_sae + table.j).numpy() for name, table in halves.items()}
    every = np.union1d(*keys.values())
    i, j = every // sums.d_sae, every % sums.d_sae
    columns: dict[str, np.ndarray] = {"i": i, "j": j}
    counted = np.isin([i, j], sums.busiest.cpu().numpy()).all(0)
    absent = {"taken_off": np.nan, "product": np.nan, "together": -1.0}
    for name, table in halves.items():
        at = np.searchsorted(every, keys[name])
        for what, unknown in absent.items():
            values = np.where(counted, 0.0, unknown)
            values[at] = getattr(table, what).numpy()
            columns[f"{what}_{name}"] = values
    pairs = torch.from_numpy(np.stack([i, j], axis=1))
    columns["length"] = passes.first.interactions.lengths(pairs).numpy()
    return pa.table(columns)
