"""A sweep whose jobs share a process against the same sweep of single jobs: whole commands, in fresh stores.

    python benchmarks/together.py saes nfms gpt2 [--folder DIR] [--train-tokens N]

Both leave the same artifacts, which is checked byte by byte, and the same KLs.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from timing import Bar, Report, arguments, parsed

DOCS = ("experiment=quickstart", "trainer=cpu", "logger=none")
SWEEPS = {
    "saes": (
        "12 SAEs of docs_lm (3 sizes, 4 sparsities), streamed",
        ("nfm=none", "sae.d_sae=512,1024,2048", "l0=8,16,32,64", "eval_tokens=8192"),
        0.45,
    ),
    "nfms": (
        "12 NFMs over one SAE of docs_lm that is there (3 orders, 4 widths), with their evaluation",
        ("sae.d_sae=1024", "nfm.order=2,3,4", "nfm.d_embed=16,32,64,128", "eval_tokens=16384"),
        0.25,
    ),
    "gpt2": (
        "12 SAEs at the shape of GPT-2 small (random weights, layer 6, d_sae 6144)",
        ("nfm=none", "layer=6", "sae.d_sae=6144", "l0=16,32,64", "sae_optimizer.lr=1e-4,2e-4,4e-4,8e-4"),
        0.35,
    ),
}


BEFORE = {"nfms": ("sae.d_sae=1024", "nfm.interaction=false", "eval_tokens=1024")}
"""A study that makes what both sides then find: the SAE, and the linear part that all NFMs have."""


def run(overrides: list[str], folder: Path, together: bool) -> float:
    """Seconds that the command takes."""
    launcher = ["hydra/launcher=together"] if together else []
    started = time.perf_counter()
    command = [sys.executable, "-m", "sae_nfm", "-m", *overrides, *launcher]
    where = [f"artifacts={folder}/artifacts", f"hydra.sweep.dir={folder}/sweep"]
    with (folder / "printed.log").open("w") as printed:
        subprocess.run([*command, *where], check=True, stdout=printed, stderr=subprocess.STDOUT)
    return time.perf_counter() - started


def weights(folder: Path) -> dict[str, bytes]:
    """What was trained, by kind and fingerprint."""
    root = folder / "artifacts"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("weights.safetensors")}


def kls(folder: Path) -> dict[str, float]:
    """Every KL of every job."""
    found = {}
    for path in (folder / "sweep").glob("*/result.json"):
        for name, condition in json.loads(path.read_text())["conditions"].items():
            found[f"{path.parent.name} {name}"] = condition["kl"]["mean"]
    return found


def random_gpt2(folder: Path) -> str:
    """A model of GPT-2 small's shape and random weights, with the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from sae_nfm.settings.schema import ASSETS

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS / "docs_lm").save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Time the sweeps that are named."""
    parser = arguments(__doc__, train_tokens=500_000, gpt2_tokens=16_384)
    parser.add_argument("sweeps", nargs="+", choices=SWEEPS)
    parser.add_argument("--folder", type=Path)
    args = parsed(parser)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with TemporaryDirectory() as scratch:
        root = args.folder or Path(scratch)
        for name in args.sweeps:
            what, sweep, bar = SWEEPS[name]
            overrides = [*DOCS, f"train_tokens={args.train_tokens}", *sweep]
            if name == "gpt2":
                model = ("lm=local", f"lm.path={random_gpt2(root / 'gpt2')}")
                sizes = (
                    "eval_tokens=512", "validation_tokens=2048", "pool_tokens=16384",
                    "evaluation.covariance_tokens=4096",
                )  # fmt: skip
                overrides = [*DOCS, *model, *sweep, *sizes, f"train_tokens={args.gpt2_tokens}"]
            seconds = {}
            if name in BEFORE:
                (root / name / "before").mkdir(parents=True)
                run(
                    [*DOCS, f"train_tokens={args.train_tokens}", *BEFORE[name]], root / name / "before", False
                )
            for together in (True, False):
                folder = root / name / ("together" if together else "single")
                folder.mkdir(parents=True)
                if name in BEFORE:
                    shutil.copytree(root / name / "before" / "artifacts", folder / "artifacts")
                seconds[together] = run(overrides, folder, together)
            one, other = (root / name / side for side in ("together", "single"))
            made, expected = weights(one), weights(other)
            assert made == expected, f"{name}: not the same weights"
            found, alone = kls(one), kls(other)
            apart = max(abs(found[key] - alone[key]) for key in alone)
            ratio = seconds[True] / seconds[False]
            Report(
                name=f"together_{name}",
                title="Jobs of a sweep in one process, against single jobs",
                columns=(
                    "sweep",
                    "single, s",
                    "together, s",
                    "ratio",
                    "equal artifacts",
                    "KLs apart by",
                ),
                rows=[[what, seconds[False], seconds[True], ratio, len(made), apart]],
                bars=[Bar(f"{what}: part of the time", ratio, bar, at_least=False)],
                notes=["Whole commands from start to end, each in a fresh store; every weight is the same."],
                figures={},
            ).publish()


if __name__ == "__main__":
    main()
