"""What the defaults of the SAE families were chosen by: one setting at a time, on validation documents.

`python benchmarks/sae_families.py [OVERRIDE…]` takes the overrides of a study, such as `lm=local lm.path=DIR
corpus=text corpus.path=FILE`. Every SAE is trained as a study trains it, and kept in `artifacts`, so that a
search that is interrupted goes on where it was. Defaults are run with every seed, other settings with the
first.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hydra import compose, initialize_config_dir
from timing import Report, arguments, parsed

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR

COMMON = ["hook=resid_post", "nfm=none", "trainer=cpu", "logger=none", "activations=cached"]
RATES = ["sae_optimizer.lr=4e-3", "sae_optimizer.lr=16e-3"]
FASTER = ["sae_optimizer.lr=8e-3", "sae_optimizer.lr=32e-3"]
SETTINGS = {
    "topk": RATES,
    "batch_topk": RATES,
    "matryoshka": [*RATES, "sae.prefix_coefficient=0.1", "sae.prefix_coefficient=1"],
    "jumprelu": [*RATES, "sae.bandwidth=0.1", "sae.bandwidth=1", "sae.l0_coefficient=0.3"],
    "relu": [*FASTER, "sae.lift_coefficient=0"],
    "gated": [*FASTER, "sae.lift_coefficient=0"],
}
FIGURES = ("explained_variance", "l0", "dead_fraction")


def trained(overrides: list[str]) -> dict[str, float]:
    """Figures on validation documents of an SAE that is trained, or found among the artifacts."""
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = config.check(compose("study", [*COMMON, *overrides]))
    with tempfile.TemporaryDirectory() as folder:
        workshop = config.workshop(cfg, config.tracker(cfg, Path(folder), {}), config.ranks(cfg))
        workshop.sae()
    return {name: workshop.metrics["sae"][name] for name in FIGURES}


def runs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every family under every setting."""
    found = []
    for family in args.families:
        target = "k" if family in ("topk", "batch_topk", "matryoshka") else "l0"
        common = [f"sae={family}", f"sae.d_sae={args.d_sae}", f"sae.{target}={args.l0}",
                  f"layer={args.layer}", f"train_tokens={args.train_tokens}", *args.overrides]  # fmt: skip
        for setting in ["", *SETTINGS[family]]:
            for seed in args.seeds[: None if not setting else 1]:
                figures = trained([*common, *filter(None, [setting]), f"seed={seed}"])
                found.append({"family": family, "setting": setting, "seed": seed, **figures})
                print(found[-1], flush=True)
    return found


def main() -> None:
    """Train all and write the table."""
    parser = arguments(__doc__, layer=2, d_sae=1024, l0=16, train_tokens=2_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--families", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("overrides", nargs="*", help="of the study, such as lm=local lm.path=DIR")
    args = parsed(parser)
    found = runs(args)
    Report(
        name="sae_families",
        title=f"SAE families on validation documents: layer {args.layer}, d_sae {args.d_sae}, L0 {args.l0}, "
        f"{args.train_tokens} tokens",
        columns=("family", "setting", "explained variance", "L0", "dead fraction", "runs"),
        rows=rows(found),
        bars=[],
        notes=[
            "Mean over the seeds, ± the standard deviation of a run, of the defaults; one run, of the first "
            "seed, of everything else. Explained variance of SAEs as they are at inference, on documents "
            "that they were not trained on and that the evaluation does not use.",
        ],
        figures={"runs": found},
    ).publish()


def rows(found: list[dict[str, Any]]) -> list[list[Any]]:
    """One for each family and setting."""
    out = []
    for family, setting in dict.fromkeys((run["family"], run["setting"]) for run in found):
        group = [run for run in found if (run["family"], run["setting"]) == (family, setting)]
        explained, l0, dead = ([run[name] for run in group] for name in FIGURES)
        spread = f" ± {stdev(explained):.4f}" if len(group) > 1 else ""
        out.append([family, setting or "defaults", f"{mean(explained):.4f}{spread}",
                    round(mean(l0), 2), round(mean(dead), 4), len(group)])  # fmt: skip
    return out


if __name__ == "__main__":
    main()
