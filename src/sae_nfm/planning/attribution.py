"""What an attribution takes: how often its blocks go through the model."""

from collections.abc import Sequence
from typing import NamedTuple

from sae_nfm.attribution.ablation import BLOCKS_EACH
from sae_nfm.attribution.choosing import ORDERS, SHARES, SINGLES
from sae_nfm.planning.costs import Memory, Model
from sae_nfm.planning.line import Line
from sae_nfm.planning.timing import Speeds
from sae_nfm.planning.workshop import Planned
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.recipes.recipe import Demand
from sae_nfm.stages.attribute import Attribute
from sae_nfm.stages.stage import Stage


class Runs(NamedTuple):
    """Blocks that go through a part of the model."""

    prefix: int
    suffix: int
    there_and_back: int
    """Through the suffix, with the gradient."""


def line_of_attribution(
    stages: Sequence[Stage], model: Model, speeds: Speeds, activations: SiteActivations
) -> Line | None:
    """The stage that attributes, by its runs through the model; None where there is none."""
    stage = next((stage for stage in stages if isinstance(stage, Attribute)), None)
    if stage is None:
        return None
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
        Memory(0, 0, 0),
    )


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
