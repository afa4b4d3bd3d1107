"""Attribution to pairs: its time against the evaluation of the same positions, and its memory.

    python benchmarks/attribution.py [--positions N] [--few N] [--many N]

Both stages have their default settings. Memory is that of whole processes which attribute `few` and `many`
positions of a narrow model of random weights, with two nodes and sets of one size, so that `many` can be had
in minutes.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from study import study
from timing import Bar, Report, arguments, parsed
from vocabulary import save_narrow_gpt2

from sae_nfm.attribution import choosing
from sae_nfm.planning.plan import evaluation_of
from sae_nfm.recipes.workshop import Workshop
from sae_nfm.stages.attribute import Attribute
from sae_nfm.stages.evaluate import Evaluate

STUDY = (
    "experiment=quickstart", "trainer=cpu", "logger=none", "train_tokens=500000", "attribution=pairs",
    "splits={validation: 0.05, test: 0.25}",
)  # fmt: skip
CHEAP = (
    "lm=local", "layer=0", "l0=16", "sae.d_sae=1024", "nfm.d_embed=16", "attribution.nodes=2",
    "attribution.further_seeds=0", "nfm.fit=together",
)  # fmt: skip


class Trained:
    """A study whose dictionaries are trained, ready to be evaluated and attributed."""

    def __init__(self, overrides: list[str], folder: Path) -> None:
        trained = study([*STUDY, *overrides], folder)
        trained.train()
        self.workshop, self.evaluate = trained.workshop, evaluation_of(trained.stages)
        self.attribute = next(stage for stage in trained.stages if isinstance(stage, Attribute))
        self.evaluate.obtain(self.workshop)
        self.attribute.obtain(self.workshop)


def seconds_of(stage: Evaluate | Attribute, workshop: Workshop) -> float:
    """How long a stage takes."""
    started = time.perf_counter()
    stage.run(workshop)
    return time.perf_counter() - started


def compared(positions: int) -> tuple[float, float]:
    """Seconds of the evaluation and of the attribution."""
    with TemporaryDirectory() as folder:
        where = [f"eval_tokens={positions}", f"artifacts={folder}/artifacts"]
        trained = Trained(where, Path(folder))
        stages = (trained.evaluate, trained.attribute)
        evaluation, attribution = (seconds_of(stage, trained.workshop) for stage in stages)
        return evaluation, attribution


def peak(positions: int) -> int:
    """Bytes of a process that attributes so many positions."""
    command = [sys.executable, __file__, "--peak", str(positions)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def attribute_only(positions: int) -> None:
    """Attribute, and print this process's peak."""
    with TemporaryDirectory() as folder:
        save_narrow_gpt2(Path(folder, "lm"), width=32, layers=2, vocabulary=4096)
        where = [f"lm.path={folder}/lm", f"eval_tokens={positions}", f"artifacts={folder}/artifacts"]
        trained = Trained([*CHEAP, *where], Path(folder))
        choosing.SHARES = choosing.SHARES[-1:]
        trained.attribute.run(trained.workshop)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Time both stages, measure the memory, and write the table."""
    parser = arguments(__doc__, positions=100_000, few=100_000, many=1_000_000)
    parser.add_argument("--peak", type=int, help="attribute so many positions and print the peak")
    args = parsed(parser)
    if args.peak:
        attribute_only(args.peak)
        return
    evaluation, attribution = compared(args.positions)
    print(f"evaluation {evaluation:.1f} s, attribution {attribution:.1f} s", flush=True)
    few, many = peak(args.few), peak(args.many)
    Report(
        name="attribution",
        title=f"Attribution to pairs, docs_lm, {args.positions:,} positions, against their evaluation",
        columns=("", "seconds", "peak of a process, GB"),
        rows=[
            ["evaluation, default conditions", evaluation, None],
            ["attribution=pairs, with the NFM of a further seed", attribution, None],
            [f"attribution of {args.few:,}", None, few / 1e9],
            [f"attribution of {args.many:,}", None, many / 1e9],
        ],
        bars=[
            Bar("time over the evaluation's", attribution / evaluation, 6.0, at_least=False),
            Bar(f"memory at {args.many:,} over that at {args.few:,}", many / few, 1.1, at_least=False),
        ],
        notes=[
            "Training is not timed. Memory: of a model of width 32, two nodes, sets of one size, no further "
            "seed (none has a part in what is kept over positions).",
        ],
        figures={},
    ).publish()


if __name__ == "__main__":
    main()
