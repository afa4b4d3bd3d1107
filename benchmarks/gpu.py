"""Studies on a GPU: against the CPU, in bf16, at the published experiment's shape, and where their time goes.

    python benchmarks/gpu.py [--folder DIR] [--accelerator gpu] [--small]

Every study is a command; `--small --accelerator cpu` runs all of it in minutes without a GPU, only to see
that it runs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from study import study
from timing import Bar, Report, parsed
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from sae_nfm.settings.schema import ASSETS

QUICK = (
    "experiment=quickstart", "logger=none", "max_tokens=3000000", "train_tokens=300000",
    "nfm_train_tokens=100000", "eval_tokens=16384",
)  # fmt: skip
MEASUREMENTS = 17_817_856  # of the published evaluation
MINUTES = 3.0


class Studies:
    """Runs studies below a folder.

    Args:
        folder: of runs and artifacts.
        accelerator: of those that are no comparison.
        small: whether sizes are those of a trial.
    """

    def __init__(self, folder: Path, accelerator: str, small: bool) -> None:
        self.folder, self.accelerator, self.small = folder.resolve(), accelerator, small

    def run(self, name: str, *overrides: str, trainer: str | None = None) -> dict[str, Any]:
        """The result of a study; one that is there is not run again."""
        where = self.folder / name
        if not (where / "result.json").exists():
            quick = ["train_tokens=20480", "eval_tokens=2048", "linear_tokens=4096"] if self.small else []
            command = [
                sys.executable, "-m", "sae_nfm", *overrides, *quick,
                f"trainer={trainer or self.accelerator}", f"artifacts={self.folder}/artifacts",
                f"hydra.run.dir={where}",
            ]  # fmt: skip
            subprocess.run(command, check=True)
        return json.loads((where / "result.json").read_text())


def agreement(studies: Studies) -> float:
    """Largest relative difference of a condition's KL, of the same dictionaries on CPU and GPU."""
    cpu = studies.run("on_cpu", *QUICK, trainer="cpu")["conditions"]
    gpu = studies.run("on_gpu", *QUICK)["conditions"]
    means = [(cpu[name]["kl"]["mean"], gpu[name]["kl"]["mean"]) for name in cpu]
    return max(abs(a - b) / a for a, b in means if a > 1e-6)


def bf16(studies: Studies) -> dict[str, float]:
    """Explained variance of an SAE by precision."""
    return {
        precision: studies.run(precision, *QUICK, "nfm=none", f"trainer.precision={precision}")["sae"][
            "explained_variance"
        ]
        for precision in ("32-true", "bf16-mixed")
    }


def random_llama(folder: Path, small: bool) -> Path:
    """OpenLLaMA-3B's shape with random weights and the embedded model's tokenizer."""
    if not (folder / "config.json").exists():
        sizes: dict[str, int] = {
            "hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26, "num_attention_heads": 32
        }  # fmt: skip
        if small:
            sizes |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=32000, max_position_embeddings=2048, dtype="bfloat16", **sizes)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(ASSETS / "docs_lm").save_pretrained(folder)
    return folder


def published_shape(studies: Studies) -> dict[str, Any]:
    """The published experiment on random weights, its training cut short."""
    lm = random_llama(studies.folder / "llama", studies.small)
    size = ["sae.d_sae=512", "l0=16", "nfm.d_embed=16", "pool_tokens=8192"] if studies.small else []
    return studies.run(
        "published_shape", "experiment=claflin_2025", "lm=local", f"lm.path={lm}", "lm.dtype=bfloat16",
        "corpus=docstrings", "max_tokens=6000000", "splits={validation: 0.05, test: 0.30}", "logger=none",
        "train_tokens=1048576", "eval_tokens=300000", *size,
    )  # fmt: skip


def by_part(studies: Studies) -> str:
    """Where the time of a quick study goes, by operation."""
    where = [f"artifacts={studies.folder}/artifacts", f"trainer={studies.accelerator}", "seed=1"]
    sizes = ["train_tokens=40960", "eval_tokens=4096"]
    _, workshop, stages = study([*QUICK, *where, *sizes], studies.folder)
    on_gpu = workshop.activations.lm.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        for stage in stages:
            stage.run(workshop)
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=key, row_limit=25)


def main() -> None:
    """Run all of it and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("artifacts/gpu"))
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parsed(parser)
    studies = Studies(args.folder, args.accelerator, args.small)
    shape, apart, explained = published_shape(studies), agreement(studies), bf16(studies)
    speed = shape["timing"]["eval_measurements_per_s"]
    lost = explained["32-true"] - explained["bf16-mixed"]
    minutes = MEASUREMENTS / speed / 60
    Report(
        name="gpu_small" if args.small else "gpu",
        title="Studies on " + (torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"),
        columns=("of the published experiment, random weights", ""),
        rows=[[name, value] for name, value in shape["timing"].items()]
        + [[f"{name}, GB at most", value] for name, value in memory_of(studies).items()],
        bars=[
            Bar("largest relative difference of a KL from the CPU's", apart, 1e-3, at_least=False),
            Bar("explained variance lost in bf16", lost, 0.002, at_least=False),
            Bar("minutes for 17.8M measurements", minutes, MINUTES, at_least=False),
        ],
        notes=[
            "float32 products are float32 (`matmul_precision=highest`) but for the published experiment's, "
            "which has `trainer.precision=bf16-mixed` and, for what it computes in float32, TF32."
        ],
        figures={"explained": explained},
        sections=["```\n" + by_part(studies) + "\n```"],
    ).publish()


def memory_of(studies: Studies) -> dict[str, float]:
    """Peak memory of every stage's training at the published shape."""
    found = {}
    result = json.loads((studies.folder / "published_shape" / "result.json").read_text())
    for name, artifact in result["artifacts"].items():
        metrics = Path(artifact["path"], "metrics.json")
        if metrics.exists() and "peak_memory_gb" in (read := json.loads(metrics.read_text())):
            found[name] = read["peak_memory_gb"]
    return found


if __name__ == "__main__":
    main()
