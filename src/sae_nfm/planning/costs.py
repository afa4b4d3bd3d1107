"""Memory, disk and operations, by what is counted: tensors that are alive at once, and matrix products."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import psutil
import torch
from omegaconf import DictConfig
from torch import nn

from sae_nfm.evaluation.condition import Condition
from sae_nfm.lm.model import DTYPES, LanguageModel
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.codes import DENSE
from sae_nfm.models.least_squares import bytes_of
from sae_nfm.planning.solving import num_features, of_adding, of_solving
from sae_nfm.planning.workshop import Planned
from sae_nfm.recipes.activations import SAMPLE_TOKENS, SiteActivations
from sae_nfm.recipes.recipe import Demand, size_of
from sae_nfm.store.store import fingerprint
from sae_nfm.training.callbacks import rounded
from sae_nfm.training.parts import Part, train_only

_TRAINED = 5
"""Numbers that are kept for each that is trained: weight, gradient, two moments of Adam, best weight."""
_SMALL = 8192
"""Bytes of an artifact beside its weights: manifest, configuration, figures."""
_POOLS = 4
"""Pools alive while one is filled: the last one, the pieces, these joined, and the shuffled one."""
_SOLVED = 3
"""Copies of a Gram matrix while a linear part is solved."""
_ALIVE = 8
"""Numbers that a layer keeps for the way back, in widths of the model."""
_FLOAT = 4


class Memory(NamedTuple):
    """Bytes beside the model."""

    read: int
    """Activations, which studies of one process that read the same have in common."""
    computing: int
    """Alive while something is computed, which one study of a process does at a time."""
    kept: int
    """From step to step."""

    @property
    def total(self) -> int:
        """Of a study that has its process to itself."""
        return sum(self)

    @classmethod
    def most(cls, each: Iterable["Memory"]) -> "Memory":
        """The most of everything."""
        return cls(*(max(column) for column in zip(*each, strict=True)))


@dataclass(frozen=True)
class Model:
    """What the language model takes.

    Args:
        layers: operations of every layer per token.
        unembedding: of the logits.
        parameters: bytes of all weights.
    """

    layers: list[float]
    unembedding: float
    parameters: int

    @classmethod
    def of(cls, lm: LanguageModel, context: int) -> "Model":
        """Two operations per weight, and attention to half of the block on average."""
        attention = 2 * 2 * lm.d_model * context / 2
        layers = [2.0 * _numbers(layer) + attention for layer in lm.layers]
        parameters = sum(p.numel() * p.element_size() for p in lm.model.parameters())
        return cls(layers, 2.0 * lm.d_model * lm.d_vocab, parameters)

    def prefix(self, layer: int) -> float:
        """Operations per token up to a site in a layer."""
        return sum(self.layers[: layer + 1])

    def suffix(self, layer: int) -> float:
        """Operations per token from there to the logits."""
        return sum(self.layers[layer + 1 :]) + self.unembedding


def operations(planned: Planned, model: Model, activations: SiteActivations) -> float:
    """Of making something: the model's, and the dictionary's with its encoder as a dense product.

    A backward pass counts twice as much as the pass forward; through frozen layers it counts once.
    """
    demand, layer = planned.demand, activations.site.layer
    each = of_dictionary(planned)
    if computes_activations(demand, activations):
        each += model.prefix(layer)
    if demand.through_model:
        each += 3 * model.suffix(layer)
    return (each + of_adding(planned)) * demand.tokens + of_solving(planned)


def of_dictionary(planned: Planned) -> float:
    """The dictionary's own per token."""
    demand = planned.demand
    if demand.autoencoder is None:
        return 0.0
    sae = demand.autoencoder.sae
    return 2.0 * sae.d_in * sae.d_sae * (3 if "sae" in demand.parts else 1)


def computes_activations(demand: Demand, activations: SiteActivations) -> bool:
    """Whether the model is run for what is read, which may lie on disk instead."""
    return activations.cache is None or not demand.reads_kept


def processes(demand: Demand, activations: SiteActivations) -> int:
    """That make something together: what is not trained, the first one makes alone."""
    return activations.store.ranks.world_size if demand.parts else 1


def kept_activations(planned: Iterable[Planned], activations: SiteActivations) -> list[Planned]:
    """Those on disk, which are written before the first thing that reads them is made; none where none is."""
    kept, kind = activations.kept, "activations"
    if kept is None or all(each.there or not each.demand.reads_kept for each in planned):
        return []
    identity = fingerprint(kept.spec())
    there = (activations.store.root / kind / identity).exists()
    saved = kept.num_tokens * activations.lm.d_model * _itemsize(activations)
    return [Planned(kind, kind, identity, there, Demand(kept.num_tokens, saved))]


def disk(planned: Iterable[Planned]) -> dict[str, int]:
    """Bytes that are to be written, by kind."""
    found: dict[str, int] = {}
    for each in planned:
        if not each.there:
            found[each.kind] = found.get(each.kind, 0) + each.demand.saved + _SMALL
    return found


def peak_disk(planned: Iterable[Planned], activations: SiteActivations) -> int:
    """Bytes at most at a time: checkpoints of what is trained lie beside all that was made before it."""
    most, made = 0, 0
    for each in planned:
        if not each.there:
            size, number = _checkpoints(each, activations.cfg)
            saved = each.demand.saved + _SMALL
            most = max(most, made + number * size, made + min(number, 2) * size + saved)
            made += saved
    return most


def _checkpoints(planned: Planned, cfg: DictConfig) -> tuple[int, int]:
    """Bytes of one, and how many there are while one is written."""
    demand = planned.demand
    if not demand.parts or demand.autoencoder is None:
        return 0, 0
    moments = 2 * _FLOAT * _trained(demand.autoencoder, demand.parts)
    size = size_of(demand.autoencoder) + moments + demand.saved  # which is the size of the best weights
    every = rounded(cfg.checkpoint_every)
    return size, min(3, demand.tokens // cfg.batch_tokens // every)


def _itemsize(activations: SiteActivations) -> int:
    """Bytes of a number of an activation as it is read."""
    cache = activations.cache
    return (DTYPES[activations.lm.dtype] if cache is None else cache.dtype).itemsize


def training_memory(planned: Planned, activations: SiteActivations) -> Memory:
    """What making something takes, of one process."""
    demand, autoencoder = planned.demand, planned.demand.autoencoder
    if planned.there:
        return Memory(0, 0, 0)
    cfg, d, shares = activations.cfg, activations.lm.d_model, activations.store.ranks.world_size
    pool = _POOLS * cfg.pool_tokens // shares
    read = 0 if demand.through_model else pool * d * _itemsize(activations)
    if autoencoder is None:
        return Memory(read, 0, 0)
    if demand.solved is not None:
        return Memory(0, _SOLVED * bytes_of(num_features(planned)), 0)
    most = DENSE[activations.lm.device.type]
    codes = [  # those of a whole batch, however many share it: validations are read in such pieces
        min(tokens * autoencoder.sae.d_sae, most) * _FLOAT for tokens in (cfg.batch_tokens, SAMPLE_TOKENS)
    ]
    computing = max(codes[0], codes[1] - read)  # a sample is read before anything is trained
    if demand.through_model:
        computing += memory_of_layers(cfg.batch_tokens // shares, activations.lm)
    return Memory(read, computing, _TRAINED * _FLOAT * _trained(autoencoder, demand.parts))


def memory_of_layers(tokens: int, lm: LanguageModel) -> int:
    """Bytes that the layers keep of tokens for the way back."""
    return _ALIVE * tokens * lm.d_model * _FLOAT * len(lm.layers)


def _trained(autoencoder: Autoencoder, parts: Collection[Part]) -> int:
    """Numbers that are trained."""
    if not parts:
        return 0
    train_only(autoencoder, parts)
    return sum(p.numel() for p in autoencoder.parameters() if p.requires_grad)


def evaluation_memory(
    conditions: list[Condition], blocks: int, rows: int, context: int, num_documents: int, lm: LanguageModel
) -> Memory:
    """What an evaluation takes, of one process: logits, and sums by document."""
    token = context * lm.d_vocab * max(_FLOAT, next(lm.model.parameters()).element_size())
    clean, stacked = 2 * blocks * token, max(rows, blocks) * token
    return Memory(0, clean + stacked, 6 * len(conditions) * num_documents * 8)


def resident_bytes(device: torch.device) -> int:
    """What this process takes now, on a device."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
