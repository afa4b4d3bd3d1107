"""`attribution.json`: what the interactions' gain is due to, and how far that holds on other documents."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import stats
from torch import Tensor

from sae_nfm.attribution.choosing import OFTEN, SHARES, Choice
from sae_nfm.attribution.sums import PairTable
from sae_nfm.findings.comparisons import as_json
from sae_nfm.findings.statistics import Jackknife, clustered_t, holm

SCHEMA = 1
_LATENTS = 50
_TRIPLES = 20
_NECESSITY = 0.01
"""Of the pairs: the set that is named in a sentence."""


class Half(NamedTuple):
    """Sums over the documents that have tokens."""

    parts: dict[str, Float[np.ndarray, " document"]]
    tokens: Float[np.ndarray, " document"]
    kept: Float[np.ndarray, " all_documents"]
    """Which documents these are."""

    @classmethod
    def of(cls, sums: Mapping[str, Tensor]) -> "Half":
        """From `PartSums.compute`."""
        arrays = {name: value.numpy() for name, value in sums.items()}
        kept = arrays["tokens"] > 0
        parts = {name: value[kept] for name, value in arrays.items() if name != "tokens"}
        return cls(parts, arrays["tokens"][kept], kept)

    def mean(self, sums: Float[np.ndarray, " document"]) -> Jackknife:
        """Per token."""
        return ratio(sums, self.tokens)

    @property
    def gain(self) -> Float[np.ndarray, " document"]:
        """KL(sae_linear) − KL(sae_nfm)."""
        return self.parts["kl_sae_linear"] - self.parts["kl_sae_nfm"]

    def share_of_gain(self, sums: Float[np.ndarray, " document"]) -> Jackknife | None:
        """As a share of the gain; None where the gain may be 0."""
        return self.share(sums, self.gain)

    def share(
        self, sums: Float[np.ndarray, " document"], whole: Float[np.ndarray, " document"]
    ) -> Jackknife | None:
        """As a share of the whole; None where that may be 0."""
        return ratio(sums, whole) if self.mean(whole).shows_more_than(0) else None


def ratio(a: Float[np.ndarray, " document"], b: Float[np.ndarray, " document"]) -> Jackknife:
    """Σ a / Σ b, with its interval over documents."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return Jackknife.of(a.sum() / b.sum(), (a.sum() - a) / (b.sum() - b))


def together(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of both halves; no document is in both."""
    return {name: value + second[name] for name, value in first.items()}


def accounted(half: Half, orders: Sequence[str]) -> dict[str, Any]:
    """What the KL is made of, and how much of every change the paths leave unaccounted.

    Args:
        half: of all documents.
        orders: `pairs`, `triples`, …
    """
    parts = half.parts
    of_gain = {name: parts[name] for name in ("constant", *orders)}
    found = {
        "kl": {name: as_json(half.mean(parts[f"kl_{name}"])) for name in ("sae", "sae_linear", "sae_nfm")},
        "gain": as_json(half.mean(half.gain)),
        "share_of_linear": as_json(half.share(half.gain, parts["kl_sae_linear"])),
        "made_of": {
            name: {"value": as_json(half.mean(sums)), "share": as_json(half.share_of_gain(sums))}
            for name, sums in of_gain.items()
        },
        "completeness": {"interactions": _gap(list(of_gain.values()), half.gain)},
    }
    if "sae" in parts:
        error = {name: parts[f"error_{name}"] for name in ("linear", "interactions", "rest")}
        found["error"] = {
            name: {"value": as_json(half.mean(sums)), "share": as_json(half.share(sums, parts["kl_sae"]))}
            for name, sums in error.items()
        }
        found["completeness"] |= {
            "sae": _gap([parts["sae"]], parts["kl_nothing"] - parts["kl_sae"]),
            "linear": _gap([parts["linear"]], parts["kl_sae"] - parts["kl_sae_linear"]),
            "error": _gap(list(error.values()), parts["kl_sae"]),
        }
    return found


def _gap(parts: Sequence[Float[np.ndarray, " document"]], change: Float[np.ndarray, " document"]) -> dict:
    """How far the sum of the parts is from the change of the KL, as a share of it."""
    total, whole = float(sum(part.sum() for part in parts)), float(change.sum())
    return {"sum": total, "change": whole, "gap": (total - whole) / whole if whole else None}


def named_pairs(
    choice: Choice, harmful: bool, choosing: PairTable, chosen: Mapping[str, Tensor],
    lengths: Float[Tensor, " pair"], half: Half,
) -> list[dict[str, Any]]:  # fmt: skip
    """The pairs that one half named, on the other: what each takes off the KL, and whether by chance.

    The test is one-sided, in the direction in which the pair was chosen, and adjusted for all that were.

    Args:
        choice: what was chosen.
        harmful: whether those that add to the KL are asked for, and not those that take off.
        choosing: sums of the half that chose.
        chosen: `ChosenPairs.compute` of the other.
        lengths: ‖c_ij‖ at f_i f_j = 1.
        half: the other.
    """
    every = range(len(choice.named))
    together, product = (chosen[name].reshape(-1) for name in ("together", "product"))  # one is a scalar
    sign, places = (-1, every[choice.num_named :]) if harmful else (1, every[: choice.num_named])
    found = []
    for place in places:
        sums = chosen["by_document"][place].numpy()[half.kept]
        test = clustered_t(sums, half.tokens)
        at = int(choice.places[place])
        one_sided = test["p"] / 2 if sign * test["t"] > 0 else 1 - test["p"] / 2
        found.append({
            "latents": choice.named[place].tolist(),
            "chosen_on": {"taken_off": float(choosing.taken_off[at]), "together": int(choosing.together[at])},
            "taken_off": as_json(half.mean(sums)),
            "share_of_gain": as_json(half.share_of_gain(sums)),
            "together": int(together[place]),
            "size": float(product[place] * lengths[place]),
            "p": one_sided,
        })  # fmt: skip
    adjusted = holm([pair["p"] for pair in found]) if found else []
    return [pair | {"p_holm": p} for pair, p in zip(found, adjusted, strict=True)]


def curves(choice: Choice, sets: Mapping[str, Mapping[str, Tensor]], half: Half) -> dict[str, Any]:
    """What sets of pairs take away of the gain when they are left out, and what they give alone."""
    kl = {name: half.parts[f"kl_{name}"] for name in ("sae_linear", "sae_nfm")}
    found: dict[str, Any] = {}
    for order in choice.orders:
        of = {name: sums.numpy()[:, half.kept] for name, sums in sets[order.name].items()}
        found[order.name] = {
            "sizes": order.sizes,
            "taken_away": [as_json(half.share_of_gain(row - kl["sae_nfm"])) for row in of["without"]],
            "given_alone": [as_json(half.share_of_gain(kl["sae_linear"] - row)) for row in of["only"]],
        }
    return {
        "pairs": choice.num_pairs,
        "match": choice.match,
        "orders": found,
        **_necessity(choice, sets, half),
    }


def _necessity(choice: Choice, sets: Mapping[str, Mapping[str, Tensor]], half: Half) -> dict[str, Any]:
    """The top hundredth by attribution, of pairs that are counted, against the best control of that size."""
    size = max(1, round(_NECESSITY * choice.num_pairs))
    taken = {
        order.name: sets[order.name]["without"][order.sizes.index(size)].numpy()[half.kept]
        - half.parts["kl_sae_nfm"]
        for order in choice.orders
        if size in order.sizes
    }
    controls = {name: sums for name, sums in taken.items() if name != "attribution"}
    if "attribution" not in taken or not controls:
        return {"necessity": None}
    best = max(controls, key=lambda name: controls[name].sum())
    return {
        "necessity": {
            "size": size,
            "taken_away": as_json(half.share_of_gain(taken["attribution"])),
            "best_control": best,
            "of_best_control": as_json(half.share_of_gain(controls[best])),
            "times_best_control": as_json(half.share(taken["attribution"], controls[best])),
        }
    }


def single_pairs(singles: Mapping[str, Tensor]) -> dict[str, Any]:
    """Attribution of single pairs against what their ablation shows, in nats over the same blocks.

    A pair is left out of all interactions, or given to the linear part alone; `both_ways` is the mean.
    """
    seen = singles["blocks"] > 0
    attributed, left_out, given = (
        singles[name][seen].numpy() for name in ("attributed", "left_out", "given")
    )
    ablated = {"both_ways": (left_out + given) / 2, "left_out": left_out, "given": given}
    return {
        "pairs": len(attributed),
        "spearman": {name: spearman(attributed, values) for name, values in ablated.items()},
        "attributed": attributed.tolist(),
        **{name: values.tolist() for name, values in ablated.items()},
    }


def spearman(x: Float[np.ndarray, " pair"], y: Float[np.ndarray, " pair"]) -> float | None:
    """Rank correlation; None of fewer than three."""
    if len(x) < 3:
        return None
    found: Any = stats.spearmanr(x, y)
    return float(found.statistic)


def agreement(mine: PairTable, other: PairTable, d_sae: int, named: int, seed: int) -> dict[str, Any]:
    """How far two NFMs on one SAE name the same pairs, on the same documents."""
    keys = [table.i.numpy() * d_sae + table.j.numpy() for table in (mine, other)]
    _, a, b = np.intersect1d(keys[0], keys[1], return_indices=True)
    often = (mine.together.numpy()[a] >= OFTEN) & (other.together.numpy()[b] >= OFTEN)
    x, y = mine.taken_off.numpy()[a][often], other.taken_off.numpy()[b][often]
    tops = [
        set(k[np.argsort(-t.surely(1).numpy(), kind="stable")[:named]].tolist())
        for k, t in zip(keys, (mine, other), strict=True)
    ]
    hundredth = max(1, round(_NECESSITY * len(x)))
    top = [set(np.argsort(-values)[:hundredth].tolist()) for values in (x, y)]
    return {
        "seed": seed,
        "pairs": int(often.sum()),
        "spearman": spearman(x, y),
        "named_in_common": len(tops[0] & tops[1]),
        "top_hundredth_in_common": len(top[0] & top[1]) / hundredth,
        "by_chance": hundredth / max(1, len(x)),
    }


def concentration(table: PairTable) -> dict[str, Any]:
    """How much of all that pairs take off belongs to how few of them, on the documents that rank them."""
    values = table.taken_off[table.together > 0].sort(descending=True).values
    positive, negative = float(values.clamp_min(0).sum()), float(values.clamp_max(0).sum())
    top = {str(share): float(values[: max(1, round(share * len(values)))].sum()) for share in SHARES}
    return {"takes_off": positive, "adds": -negative, "top": top}


def latents(sums: Mapping[str, Tensor], tokens: float) -> dict[str, Any]:
    """The latents that take most off the KL, in the SAE and in the linear part, in nats/token."""
    out = {}
    for part in ("sae", "linear"):
        order = sums[part].abs().argsort(descending=True)[:_LATENTS].tolist()
        out[part] = [
            {"latent": n, "taken_off": float(sums[part][n]) / tokens, "active": int(sums["fired"][n])}
            for n in order
        ]
    return out


def planted(
    table: PairTable, tuples: Int64[Tensor, "planted 2"], choice: Choice, curves: Mapping[str, Any]
) -> dict[str, Any]:
    """Whether the pairs that were planted are those that take most off the KL.

    Args:
        table: sums of the half that did not choose.
        tuples: what was planted.
        choice: what the other half chose.
        curves: as of `curves`.
    """
    truth = {(int(min(pair)), int(max(pair))) for pair in tuples.tolist()}
    best = table.taken_off.argsort(descending=True, stable=True)[: len(truth)]
    top = {(int(table.i[n]), int(table.j[n])) for n in best}
    order = next(each for each in choice.orders if each.name == "attribution")
    at = order.sizes.index(len(truth)) if len(truth) in order.sizes else None
    return {
        "pairs": sorted(map(list, truth)),
        "precision": len(top & truth) / max(1, len(top)),
        "recall": len(top & truth) / len(truth),
        "taken_away": None if at is None else curves["orders"]["attribution"]["taken_away"][at],
    }


def triples(
    found: tuple[Int64[Tensor, "triple 3"], Float[Tensor, " triple"], float], tokens: float
) -> dict[str, Any]:
    """The heaviest triples, in nats/token."""
    of, sums, error = found
    listed = [
        {"latents": three, "taken_off": value / tokens}
        for three, value in zip(of[:_TRIPLES].tolist(), sums[:_TRIPLES].tolist(), strict=True)
    ]
    return {"heaviest": listed, "error": error / tokens}


def size_of(table: PairTable, lengths: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """Σ ‖c_ij‖ of each pair; 0 where its products were not counted."""
    return torch.nan_to_num(table.product * lengths.double())
