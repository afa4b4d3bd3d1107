"""The plan of a study, as `plan=true` prints it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Column, Table

from sae_nfm.lm.model import DTYPES, LanguageModel
from sae_nfm.models.least_squares import free_bytes
from sae_nfm.planning.attribution import attribution_of, line_of_attribution, memory_of_attribution
from sae_nfm.planning.costs import (
    Memory,
    Model,
    disk,
    evaluation_memory,
    kept_activations,
    operations,
    peak_disk,
    resident_bytes,
    training_memory,
)
from sae_nfm.planning.line import Line
from sae_nfm.planning.timing import estimated, measured, speed_of_products
from sae_nfm.planning.workshop import Planned, PlannedWorkshop
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.recipes.recipe import Demand
from sae_nfm.settings.values import NotAllowed
from sae_nfm.stages.evaluate import Evaluate
from sae_nfm.stages.stage import Stage

_GB = 1e9


class Plan(NamedTuple):
    """What a study would make, and what that would take."""

    lines: list[Line]
    evaluation: Line
    positions: int
    measurements: int
    disk: dict[str, int]
    """Bytes to be written, by kind of artifact."""
    peak_disk: int
    """Bytes at most at a time, with the checkpoints of what is trained."""
    memory: int
    """Bytes at most, of one process on its device."""
    device: str
    processes: int = 1
    speed: float | None = None
    """Operations a second by which time was estimated, where the model has no weights to be run with."""
    attribution: Line | None = None
    """Where the study attributes: by its runs through the model, what else it does left out."""

    def as_json(self) -> dict[str, Any]:
        """As plain numbers."""
        attributed = self.attribution
        return {
            "artifacts": {
                line.planned.name: {
                    "kind": line.planned.kind,
                    "fingerprint": line.planned.fingerprint,
                    "there": line.planned.there,
                    "tokens": line.planned.demand.tokens,
                    **line.as_json(),
                }
                for line in self.lines
            },
            "evaluation": {
                "positions": self.positions,
                "measurements": self.measurements,
                **self.evaluation.as_json(),
            },
            "attribution": attributed
            and {"positions": attributed.planned.demand.tokens, **attributed.as_json()},
            "disk": self.disk,
            "peak_disk": self.peak_disk,
            "memory": self.memory,
            "processes": self.processes,
            "operations_per_s": self.speed,
        }


def plan_of(stages: Sequence[Stage], workshop: PlannedWorkshop) -> Plan:
    """Ask for all that the stages need, and work out what it takes.

    Raises:
        NotAllowed: the disk or the memory has no room for it.
    """
    for stage in stages:
        stage.obtain(workshop)
    at = workshop.activations
    planned = [*kept_activations(workshop.planned, at), *workshop.planned]
    base, model = resident_bytes(at.lm.device), Model.of(at.lm, at.cfg.context)
    layer, speed = at.site.layer, None
    if at.lm.blank:
        base += model.parameters
        speed = speed_of_products(at.lm.device, DTYPES[at.lm.dtype])
        speeds = estimated(planned, model, layer, speed)
    else:
        speeds = measured(planned, at)
    lines = [
        Line(each, operations(each, model, at), speeds.of(each, at), training_memory(each, at))
        for each in planned
    ]
    evaluate = evaluation_of(stages)
    draws = sum(condition.draws for condition in evaluate.conditions)
    counted = sum(c.draws for c in evaluate.conditions if c.role not in ("clean", "identity"))
    scored = evaluate.scored
    tokens = scored.num_blocks * scored.blocks.context
    judged = Line(
        Planned("evaluation", "", "", False, Demand(tokens, saved=0)),
        tokens * (model.prefix(layer) + draws * model.suffix(layer)),
        tokens * (speeds.prefix + draws * speeds.suffix) / at.store.ranks.world_size,
        memory_of_evaluation(evaluate, at.lm),
    )
    attributed = line_of_attribution(stages, model, speeds, workshop)
    memory = base + max(line.memory.total for line in [*lines, judged, *filter(None, [attributed])])
    written = (disk(planned), peak_disk(planned, at))
    measurements, where = counted * scored.num_tokens, (str(at.lm.device), at.store.ranks.world_size)
    plan = Plan(lines, judged, scored.num_tokens, measurements, *written, memory, *where, speed, attributed)
    if not at.lm.blank:  # which will run on another machine
        _refuse_what_has_no_room(plan, workshop, base)
    return plan


def memory_of(stages: Sequence[Stage], workshop: PlannedWorkshop) -> Memory:
    """What a study takes beside the model, at most; all that it needs is asked for."""
    for stage in stages:
        stage.obtain(workshop)
    at = workshop.activations
    most = [training_memory(each, at) for each in workshop.planned]
    most.append(memory_of_evaluation(evaluation_of(stages), at.lm))
    if (stage := attribution_of(stages)) is not None:
        most.append(memory_of_attribution(stage, workshop.autoencoder, at.lm))
    return Memory.most(most)


def evaluation_of(stages: Sequence[Stage]) -> Evaluate:
    """The stage that judges."""
    return next(stage for stage in stages if isinstance(stage, Evaluate))


def memory_of_evaluation(evaluate: Evaluate, lm: LanguageModel) -> Memory:
    """What it takes beside the model."""
    scored, blocks = evaluate.scored, evaluate.scored.blocks
    rows, documents = evaluate.settings.rows_on(lm.device), blocks.num_documents
    return evaluation_memory(evaluate.conditions, scored.batch_size, rows, blocks.context, documents, lm)


def _refuse_what_has_no_room(plan: Plan, workshop: PlannedWorkshop, base: int) -> None:
    at, root = workshop.activations, workshop.store.root
    needed, free = plan.peak_disk, shutil.disk_usage(_there(root)).free
    if needed > free:
        kinds = {**plan.disk, "checkpoints": needed - sum(plan.disk.values())}
        largest = max(kinds, key=lambda kind: kinds[kind])
        allowed = f"folders on a disk with {needed / _GB:.1f} GB, of which {largest} take most"
        raise NotAllowed("artifacts", root, allowed, f"{free / _GB:.1f} GB are free there")
    grows, left = (plan.memory - base) * _sharing(plan, at), free_bytes(at.lm.device)
    if grows > left:
        each = [*plan.lines, plan.evaluation, *filter(None, [plan.attribution])]
        worst = max(each, key=lambda line: line.memory.total).planned.name
        allowed = f"devices with {grows / _GB:.1f} GB more, which {worst} takes"
        because = f"{left / _GB:.1f} GB are free on {plan.device}"
        raise NotAllowed("trainer.accelerator", at.cfg.trainer.accelerator, allowed, because)


def _sharing(plan: Plan, at: SiteActivations) -> int:
    """Processes on one device: on CPUs, all of a machine."""
    return plan.processes // at.cfg.trainer.num_nodes if plan.device == "cpu" else 1


def _there(folder: Path) -> Path:
    """The nearest folder that there is."""
    return next(each for each in [folder.absolute(), *folder.absolute().parents] if each.exists())


def print_plan(plan: Plan) -> None:
    """Say what would be made, what is there, and what it takes."""
    numbers = [Column(name, justify="right") for name in ("tokens", "FLOPs", "tokens/s", "time")]
    table = Table(Column("artifact", overflow="fold"), "", *numbers)
    for line in plan.lines:
        made = "there" if line.planned.there else "to make"
        figures = ("", "", "", "") if line.planned.there else _figures(line.planned.demand.tokens, line)
        table.add_row(f"{line.planned.name} ({line.planned.kind}/{line.planned.fingerprint})", made, *figures)
    table.add_row("evaluation", "to do", *_figures(plan.positions, plan.evaluation))
    after = [plan.evaluation]
    if plan.attribution is not None:
        after.append(plan.attribution)
        figures = _figures(plan.attribution.planned.demand.tokens, plan.attribution)
        table.add_row("attribution, by its runs through the model", "to do", *figures)
    console = Console()
    console.print(table)
    to_make = [line for line in plan.lines if not line.planned.there]
    seconds = sum(line.seconds for line in [*to_make, *after])
    kinds = ", ".join(f"{kind} {_bytes(size)}" for kind, size in plan.disk.items())
    print(f"measurements: {plan.measurements:,}")
    print(f"disk: {_bytes(sum(plan.disk.values()))}{kinds and f' ({kinds})'}, and the run's folder")
    print(f"disk at most: {_bytes(plan.peak_disk)}, with the checkpoints of what is trained")
    each = f", in each of {plan.processes} processes" if plan.processes > 1 else ""
    print(f"memory: {_bytes(plan.memory)} on {plan.device}{each}")
    print(f"time: {_duration(seconds)}, by {_measured_by(plan)}")


def _measured_by(plan: Plan) -> str:
    if plan.speed is None:
        return "a few seconds' measurement on this machine"
    return (
        f"operations at the {plan.speed / _GB:,.0f} GFLOP/s of this machine's matrix products: the model's "
        "folder holds no weights"
    )


def _figures(tokens: int, line: Line) -> tuple[str, str, str, str]:
    per_second = f"{tokens / line.seconds:.3g}" if line.seconds else ""
    return f"{tokens:,}", f"{line.operations:.1e}", per_second, _duration(line.seconds)


def _bytes(size: float) -> str:
    return f"{size / _GB:.2f} GB" if size >= _GB / 10 else f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {int(seconds % 60):02d} s"
