"""What an attribution takes: how often its blocks go through the model, and what its sums are kept in."""

from collections.abc import Sequence
from typing import NamedTuple

from sae_nfm.attribution.ablation import BLOCKS_EACH, ROWS
from sae_nfm.attribution.choosing import ORDERS, SHARES, SINGLES
from sae_nfm.attribution.interactions import Interactions
from sae_nfm.attribution.sums import SKETCH_BYTES
from sae_nfm.lm.model import LanguageModel
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.planning.costs import Memory, Model, memory_of_layers
from sae_nfm.planning.line import Line
from sae_nfm.planning.timing import Speeds
from sae_nfm.planning.workshop import Planned, PlannedWorkshop
from sae_nfm.recipes.recipe import Demand
from sae_nfm.stages.attribute import Attribute
from sae_nfm.stages.stage import Stage

_KEPT = 2 * 2
"""Copies of a pass's sums: both passes keep theirs, and torchmetrics what they began with."""
_CELL = 4 * 8
"""Bytes of the sums of two latents."""
_LISTED = 48
"""Bytes of a pair in a table."""
_TOGETHER = 180
"""Bytes at most, temporaries among them, for two latents that are active at the same token (measured)."""


class Runs(NamedTuple):
    """Blocks that go through a part of the model."""

    prefix: int
    suffix: int
    there_and_back: int
    """Through the suffix, with the gradient."""


def attribution_of(stages: Sequence[Stage]) -> Attribute | None:
    """The stage that attributes; None where there is none."""
    return next((stage for stage in stages if isinstance(stage, Attribute)), None)


def line_of_attribution(
    stages: Sequence[Stage], model: Model, speeds: Speeds, workshop: PlannedWorkshop
) -> Line | None:
    """The stage that attributes, by its runs through the model; None where there is none."""
    if (stage := attribution_of(stages)) is None:
        return None
    activations = workshop.activations
    scored, layer, runs = stage.scored, activations.site.layer, runs_of(stage)
    blocks = len(stage.halves.choosing) + len(stage.halves.verifying)
    positions, context = round(scored.num_tokens * blocks / scored.num_blocks), scored.blocks.context
    computed = runs.suffix + 2 * runs.there_and_back  # weights are frozen, and have no gradients
    operations = runs.prefix * model.prefix(layer) + computed * model.suffix(layer)
    timed = runs.suffix + 3 * runs.there_and_back
    seconds = runs.prefix * speeds.prefix + timed * speeds.suffix
    return Line(
        Planned("attribution", "", "", False, Demand(positions, saved=0)),
        context * operations,
        context * seconds / activations.store.ranks.world_size,
        memory_of_attribution(stage, workshop.autoencoder, activations.lm),
    )


def memory_of_attribution(stage: Attribute, autoencoder: Autoencoder, lm: LanguageModel) -> Memory:
    """Sums of pairs, and every two latents of a batch's tokens, of one process."""
    how, sae, context = stage.how, autoencoder.sae, stage.scored.blocks.context
    counted = min(how.busiest, sae.d_sae)
    sketches = (counted < sae.d_sae) + (3 in Interactions.of(autoencoder).orders)
    kept = _KEPT * (_CELL * counted**2 + SKETCH_BYTES * sketches) + _LISTED * counted**2 // 2
    active = min(sae.l0, sae.d_sae)
    together = how.batch_size * context * active * (active - 1) / 2
    suffix = memory_of_layers(max(how.batch_size, ROWS) * context, lm)
    return Memory(0, round(_TOGETHER * together) + suffix, kept)


def runs_of(stage: Attribute) -> Runs:
    """All that it does, where as many pairs occur as sets and single ablations are made of."""
    how, choosing, verifying = stage.how, len(stage.halves.choosing), len(stage.halves.verifying)
    walked, seeds = choosing + verifying, how.further_seeds * choosing
    each, of_seed = of_a_pass(how.features, how.nodes), of_a_pass(False, how.nodes)
    sets = 2 * len(ORDERS) * (1 + len(SHARES)) * verifying
    singles = 2 * SINGLES * min(BLOCKS_EACH, verifying)
    return Runs(
        walked + seeds,
        walked * each.suffix + seeds * of_seed.suffix + sets + singles,
        walked * each.there_and_back + seeds * of_seed.there_and_back,
    )


def of_a_pass(features: bool, nodes: int) -> Runs:
    """Runs of every block: clean, the ends of the paths, and the nodes along each."""
    return Runs(1, 5, 4 * nodes) if features else Runs(1, 4, nodes)
