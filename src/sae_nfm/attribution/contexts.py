"""Blocks that are kept to be looked at: where a pair or a latent does most, where it occurs, and passages."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.attribution.attributed import Attributed
from sae_nfm.models.pairs import PairOrder
from sae_nfm.store.ranks import Ranks

MOST, ANY = 8, 4
"""Contexts kept of each pair and latent: those where it does most, and a random few in which it occurs."""
PASSAGES = {"repaired": 12, "harmed": 6, "any": 12}


class Kept:
    """The blocks of the highest scores of every item, with what is shown of them.

    Every process keeps its own; `joined` has those of all.

    Args:
        num_items: what has blocks of its own.
        per_item: blocks of each.
    """

    def __init__(self, num_items: int, per_item: int) -> None:
        self.per_item = per_item
        self.items: list[list[tuple[float, int, Any]]] = [[] for _ in range(num_items)]

    def offer(
        self, scores: Float[Tensor, "item block"], numbers: list[int], shown: Callable[[int, int], Any]
    ) -> None:
        """Keep what ranks among the best.

        Args:
            scores: -inf where there is nothing to keep.
            numbers: of the blocks, by which equal scores are told apart.
            shown: of an item and a place among the blocks, asked for only where it is kept.
        """
        best = scores.topk(min(self.per_item, scores.shape[1]), dim=1)
        for item, (values, places) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ):
            kept = self.items[item]
            for score, place in zip(values, places, strict=True):
                if score > -np.inf and (len(kept) < self.per_item or score >= kept[-1][0]):
                    kept.append((score, numbers[place], shown(item, place)))
                    kept.sort(key=lambda entry: (-entry[0], entry[1]))
                    del kept[self.per_item :]

    def joined(self, ranks: Ranks) -> list[list[Any]]:
        """What is kept of every item by all processes, the best first."""
        everyone = ranks.gathered(self.items)
        together = [[entry for items in everyone for entry in items[item]] for item in range(len(self.items))]
        for kept in together:
            kept.sort(key=lambda entry: (-entry[0], entry[1]))
        return [[shown for _, _, shown in kept[: self.per_item]] for kept in together]


class Contexts:
    """Contexts of chosen pairs and of their latents, and passages.

    Args:
        order: the pairs.
        latents: whose activations are shown.
    """

    def __init__(self, order: PairOrder, latents: list[int]) -> None:
        self.order, self.latents = order, torch.tensor(latents, dtype=torch.int64)
        self.of_pairs = {"most": Kept(order.num_pairs, MOST), "any": Kept(order.num_pairs, ANY)}
        self.of_latents = Kept(len(latents), MOST)
        self.passages = {name: Kept(1, number) for name, number in PASSAGES.items()}

    def update(self, found: Attributed) -> None:
        """Look at a batch."""
        numbers = found.numbers.tolist()
        tokens = found.batch.tokens.cpu().numpy().astype(np.int32)
        self._see_pairs(found, numbers, tokens)
        self._see_latents(found, numbers, tokens)
        self._see_passages(found, numbers, tokens)

    def _see_pairs(self, found: Attributed, numbers: list[int], tokens: np.ndarray) -> None:
        (places, pairs), num = found.pairs.among(self.order), self.order.num_pairs
        rows = torch.zeros(2, num, len(found.documents), dtype=torch.float64, device=places.device)
        rows[0, places, pairs.token] = pairs.taken_off.double()
        rows[1, places, pairs.token] = pairs.product.double()
        taken_off, product = (found.by_position(part).cpu() for part in rows)
        size = taken_off.abs().amax(-1)
        occurs = product.amax(-1) > 0
        drawn = torch.tensor([[chance(number, item) for number in numbers] for item in range(num)])

        def shown(item: int, place: int) -> dict[str, Any]:
            peak = int(taken_off[item, place].abs().argmax())
            values = taken_off[item, place].float().numpy()
            return {"block": numbers[place], "tokens": tokens[place], "peak": peak, "taken_off": values,
                    "product": product[item, place].float().numpy()}  # fmt: skip

        for name, scores in (("most", size), ("any", drawn.double().view(num, len(numbers)))):
            self.of_pairs[name].offer(scores.masked_fill(~occurs, -torch.inf), numbers, shown)

    def _see_latents(self, found: Attributed, numbers: list[int], tokens: np.ndarray) -> None:
        codes = found.parts.codes
        latents = self.latents.to(codes.indices.device)
        if not len(latents):
            return
        rows = torch.stack([(codes.values * (codes.indices == latent)).sum(-1) for latent in latents])
        active = found.by_position(rows).cpu()
        largest = active.amax(-1)

        def shown(item: int, place: int) -> dict[str, Any]:
            values = active[item, place]
            return {"block": numbers[place], "tokens": tokens[place], "peak": int(values.argmax()),
                    "active": values.float().numpy()}  # fmt: skip

        self.of_latents.offer(largest.masked_fill(largest <= 0, -torch.inf), numbers, shown)

    def _see_passages(self, found: Attributed, numbers: list[int], tokens: np.ndarray) -> None:
        names = ("sae", "sae_linear", "sae_nfm")
        kl = found.by_position(torch.stack([found.kl[name] for name in names])).double().cpu()
        scored = found.batch.scored.cpu()
        repaired = (kl[1] - kl[2]).sum(-1) / scored.sum(-1).clamp_min(1)
        drawn = torch.tensor([chance(number, -1) for number in numbers], dtype=torch.float64)

        def shown(item: int, place: int) -> dict[str, Any]:
            values = {name: part[place].float().numpy() for name, part in zip(names, kl, strict=True)}
            return {"block": numbers[place], "tokens": tokens[place],
                    "scored": scored[place].numpy(), "kl": values}  # fmt: skip

        for name, scores in (("repaired", repaired), ("harmed", -repaired), ("any", drawn)):
            scores = scores.masked_fill(~scored.any(-1), -torch.inf)
            self.passages[name].offer(scores.unsqueeze(0), numbers, shown)

    def joined(self, ranks: Ranks) -> Mapping[str, Any]:
        """What all processes have kept."""
        return {
            "pairs": {name: kept.joined(ranks) for name, kept in self.of_pairs.items()},
            "latents": self.of_latents.joined(ranks),
            "passages": {name: kept.joined(ranks)[0] for name, kept in self.passages.items()},
        }


def chance(block: int, item: int) -> float:
    """A number in [0, 1) for a block and an item: the same in every run, whoever draws it."""
    mixed = (block * 0x9E3779B97F4A7C15 + (item + 2) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) / 2.0**64
