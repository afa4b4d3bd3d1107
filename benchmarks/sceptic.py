"""The sceptic's evaluation with top-N and rank measures against the default one, in measurements per second.

    python benchmarks/sceptic.py [--positions N] [--rounds N]

Both evaluate the same dictionary of the embedded model, in turns.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from study import study
from timing import Bar, Report, arguments, parsed

from sae_nfm.planning.plan import evaluation_of

STUDY = (
    "experiment=quickstart", "trainer=cpu", "logger=none", "train_tokens=81920", "linear_tokens=40960",
    "sae.d_sae=1024",
)  # fmt: skip
EVALUATIONS = {
    "default": (),
    "sceptic, top_n=10": ("evaluation=sceptic", "evaluation.top_n=10"),
}


def evaluation(overrides: list[str], folder: Path) -> Callable[[], float]:
    """What evaluates a trained dictionary, and says how many measurements it made per second."""
    folder.mkdir()
    trained = study([*STUDY, *overrides], folder)
    trained.train()
    evaluate = evaluation_of(trained.stages)
    evaluate.obtain(trained.workshop)
    return lambda: evaluate.run(trained.workshop)["timing"]["eval_measurements_per_s"]


def main() -> None:
    """Evaluate in turns, and write the table."""
    parser = arguments(__doc__, positions=100_000, rounds=3)
    args = parsed(parser)
    with TemporaryDirectory() as scratch:
        where = [f"eval_tokens={args.positions}", f"artifacts={scratch}/artifacts"]
        contestants = {
            name: evaluation([*where, *own], Path(scratch, str(number)))
            for number, (name, own) in enumerate(EVALUATIONS.items())
        }
        speeds = [{name: run() for name, run in contestants.items()} for _ in range(args.rounds)]
    default, sceptic = EVALUATIONS
    quotients = [speed[sceptic] / speed[default] for speed in speeds]
    Report(
        name="sceptic",
        title=f"Evaluation with top-N and rank measures, docs_lm, {args.positions:,} positions",
        columns=("measurements/s", *(f"round {number + 1}" for number in range(args.rounds))),
        rows=[[name, *(speed[name] for speed in speeds)] for name in EVALUATIONS],
        bars=[Bar("pace of the default evaluation, median", statistics.median(quotients), 0.9)],
        notes=["Whole evaluations in turns; what the first one compiles is in its time."],
        figures={"quotients": quotients},
    ).publish()


if __name__ == "__main__":
    main()
