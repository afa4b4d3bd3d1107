"""The KL evaluation: ours against the published procedure, on the same blocks and dictionaries.

`python benchmarks/kl_evaluation.py [OVERRIDE…]` takes the overrides of a study, such as `lm=local
lm.path=DIR`.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from memory import peak_of
from operations import GPT2_SMALL, OPENLLAMA_3B, Shape, allowed_speedup
from published import PublishedEvaluation, exact_kl
from study import study
from timing import Bar, Report, arguments, parsed
from transformers import AutoModelForCausalLM
from vocabulary import VOCABULARY, save_narrow_gpt2

from sae_nfm.planning.plan import evaluation_of

DRAWS, BATCH = 5, 8
OVERRIDES = [
    "hook=resid_post", "sae.d_sae=2048", "sae.k=32", "nfm.order=2", "trainer=cpu", "logger=none",
    "train_tokens=204800", "evaluation.reconstructions=[sae,sae_nfm]", "evaluation.baselines=[eps]",
    "evaluation.matched=[sae]", f"evaluation.draws={DRAWS}", "evaluation.bos=patch", "evaluation.top_n=0",
    f"evaluation.batch_size={BATCH}",
]  # fmt: skip


class Ours:
    """Our evaluation: a study's last stage, after briefly trained dictionaries.

    Every condition replaces and scores all positions.
    """

    def __init__(self, overrides: list[str], folder: Path) -> None:
        trained = study([*OVERRIDES, *overrides], folder)
        trained.train()
        self.cfg, self.workshop = trained.cfg, trained.workshop
        self.evaluate = evaluation_of(trained.stages)
        self.workshop.autoencoder.eval()

    def __call__(self) -> float:
        """Seconds of one evaluation."""
        self.found = self.evaluate.run(self.workshop)
        return self.found["measurements"] / self.found["timing"]["eval_measurements_per_s"]

    def means(self) -> dict[str, float]:
        """Mean KL by condition."""
        return {name: entry["kl"]["mean"] for name, entry in self.found["conditions"].items()}

    def blocks(self) -> list[torch.Tensor]:
        """Tokens of the batches that are evaluated."""
        return [self.evaluate.scored.blocks.tokens(numbers) for numbers in self.evaluate.scored]


def copies_of_logits() -> float:
    """Peak memory of an evaluation in a process of its own, in sizes of a batch's logits, 50,257 wide."""
    command = [sys.executable, __file__, "--peak"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak() -> float:
    """What `copies_of_logits` asks for, of this process."""
    with tempfile.TemporaryDirectory() as folder:
        save_narrow_gpt2(Path(folder, "lm"))
        model = ["lm=local", f"lm.path={folder}/lm", "layer=2", "sae.d_sae=256", "nfm.d_embed=16"]
        ours = Ours([*model, "eval_tokens=2048"], Path(folder))
        return peak_of(ours) / (BATCH * 128 * VOCABULARY * 4)


class Theirs:
    """The published evaluation of the same blocks in the same batches."""

    def __init__(self, ours: Ours) -> None:
        path = ours.workshop.activations.lm.path
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        base = model.base_model
        layer = (base.h if hasattr(base, "h") else base.layers)[ours.cfg.layer]
        self.evaluation = PublishedEvaluation(model, layer, ours.workshop.autoencoder, DRAWS)
        self.batches = ours.blocks()

    def __call__(self) -> float:
        """Seconds of one evaluation."""
        started = time.perf_counter()
        found = [self.evaluation.kl(tokens) for tokens in self.batches]
        seconds = time.perf_counter() - started
        self.means = {name: mean([kl for part in found for kl in part[name]]) for name in found[0]}
        return seconds

    @torch.no_grad()
    def exact_means(self) -> dict[str, float]:
        """Mean KL of the same passes without the epsilon."""
        kl: dict[str, list[torch.Tensor]] = {}
        for tokens in self.batches:
            passes = self.evaluation.logits(tokens)
            _, clean = next(passes)
            for name, logits in passes:
                kl.setdefault(name, []).append(exact_kl(clean, logits))
        return {name: mean(values) for name, values in kl.items()}


def mean(values: list[torch.Tensor]) -> float:
    """Mean over all positions, in float64."""
    return float(torch.cat([value.flatten().double() for value in values]).mean())


def main() -> None:
    """Evaluate in turn and write the table."""
    parser = arguments(__doc__, layer=2, blocks=32, rounds=15)
    parser.add_argument("overrides", nargs="*", help="of the study, such as lm=local lm.path=DIR")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.peak:
        print(peak())
        return
    positions = args.blocks * 128
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"layer={args.layer}", f"eval_tokens={positions}", *args.overrides]
        ours = Ours(overrides, Path(folder))
        theirs = Theirs(ours)
        ours(), theirs()
        seconds = [(ours(), theirs()) for _ in range(args.rounds)]
    report(ours, positions, seconds, theirs)


def shape_of(ours: Ours, theirs: Theirs) -> Shape:
    """Sizes of what was timed."""
    lm, cfg = ours.workshop.activations.lm, ours.cfg
    gated_mlp = getattr(theirs.evaluation.model.config, "intermediate_size", None)
    return Shape(
        Path(lm.path).name, lm.n_layers, lm.d_model, lm.d_vocab, gated_mlp, cfg.layer, cfg.sae.d_sae,
        cfg.sae.k, cfg.nfm.d_embed, cfg.context,
    )  # fmt: skip


def report(ours: Ours, positions: int, seconds: list[tuple[float, float]], theirs: Theirs) -> None:
    """Speeds, allowed speed-ups, and how the means compare."""
    here, means = shape_of(ours, theirs), ours.means()
    measurements = positions * (2 + DRAWS)
    speed = [measurements / statistics.median(column) for column in zip(*seconds, strict=True)]
    measured = statistics.median(b / a for a, b in seconds)
    exact, copies = theirs.exact_means(), copies_of_logits()
    same = max(abs(means[name] - exact[name]) for name in ("sae", "sae_nfm"))
    epsilon = {name: theirs.means[name] - exact[name] for name in ("sae", "sae_nfm")}
    allowed = {shape.name: allowed_speedup(shape, DRAWS) for shape in (here, GPT2_SMALL, OPENLLAMA_3B)}
    Report(
        name="kl_evaluation",
        title=f"KL evaluation, {here.name}, layer {here.layer}, SAE, SAE+NFM, {DRAWS} draws of ε, float32",
        columns=("", "measurements/s", "mean KL sae", "mean KL sae_nfm", "mean KL eps(sae)"),
        rows=[
            ["sae_nfm", round(speed[0]), means["sae"], means["sae_nfm"], means["eps(sae)"]],
            ["published procedure", round(speed[1]), *(theirs.means[n] for n in ("sae", "sae_nfm", "eps"))],
            ["the same without epsilon", None, *(exact[n] for n in ("sae", "sae_nfm", "eps"))],
        ],
        bars=[
            Bar("speed against the published procedure", measured, 1.85),
            Bar("share of what operation counts allow", measured / allowed[here.name], 0.95),
            Bar("largest difference of a mean KL, nats", same, 1e-4, at_least=False),
            Bar("peak memory in copies of a batch's logits at 50,257 tokens", copies, 4.0, at_least=False),
        ],
        notes=[
            f"{positions} positions, {measurements} measurements per evaluation, {BATCH} blocks a batch in "
            "both; all positions replaced and scored. ε draws differ in their random numbers. The epsilon of "
            "1e-8 moves the published means by "
            + ", ".join(f"{value:+.2e} ({name})" for name, value in epsilon.items())
            + ".",
            "Fewer operations by a factor of: "
            + ", ".join(f"{value:.2f} ({name})" for name, value in allowed.items())
            + "; formulas in benchmarks/operations.py.",
            "Peak: of an evaluation of a GPT-2 of width 64 with 50,257 tokens; one copy is the model's own.",
        ],
        figures={"seconds": seconds, "allowed": allowed, "epsilon_effect": epsilon, "copies": copies},
    ).publish()


if __name__ == "__main__":
    main()
