"""The KL evaluation: ours against the published procedure, on the same blocks and dictionaries.

`python benchmarks/kl_evaluation.py [OVERRIDE…]` takes the overrides of a study, such as `lm=local
lm.path=DIR`.
"""

import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from operations import GPT2_SMALL, OPENLLAMA_3B, Shape, allowed_speedup
from published import PublishedEvaluation, exact_kl
from timing import Bar, Report, arguments, parsed
from transformers import AutoModelForCausalLM

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.launch.study import Study
from sae_nfm.models.autoencoder import Autoencoder

DRAWS, BATCH = 5, 8
OVERRIDES = [
    "hook=resid_post", "sae.d_sae=2048", "sae.k=32", "nfm.order=2", "trainer=cpu", "logger=none",
    "train_tokens=204800", "evaluation.reconstructions=[sae,sae_nfm]", "evaluation.baselines=[eps]",
    "evaluation.matched=[sae]", f"evaluation.draws={DRAWS}", "evaluation.bos=patch", "evaluation.top_n=0",
    f"evaluation.batch_size={BATCH}",
]  # fmt: skip


def trained_study(overrides: list[str], folder: Path) -> tuple[Study, Autoencoder]:
    """A study with briefly trained dictionaries; every condition replaces and scores all positions."""
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("study", [*OVERRIDES, *overrides])
    study = Study(cfg, folder, {"command": "", "choices": {}})
    with contextlib.redirect_stdout(io.StringIO()):
        study.run()
    return study, study.artifacts.nfm(study.artifacts.sae()).eval()


class Ours:
    """Our evaluation, through Lightning's test loop."""

    def __init__(self, study: Study, autoencoder: Autoencoder) -> None:
        self.study, self.autoencoder = study, autoencoder
        self.reconstructions = study.controls(autoencoder)

    def __call__(self) -> float:
        """Seconds of one evaluation."""
        self.task = self.study.evaluate(self.autoencoder, self.reconstructions)
        return self.task.seconds

    def means(self) -> dict[str, float]:
        """Mean KL by condition."""
        sums = self.task.sums.compute()
        means = (sums["kl_sum"] / sums["draws"]).tolist()
        return dict(zip((condition.name for condition in self.task.conditions), means, strict=True))


class Theirs:
    """The published evaluation of the same blocks in the same batches."""

    def __init__(self, study: Study, autoencoder: Autoencoder, num_blocks: int) -> None:
        model = AutoModelForCausalLM.from_pretrained(study.activations.lm.path, dtype=torch.float32).eval()
        base = model.base_model
        layer = (base.h if hasattr(base, "h") else base.layers)[study.cfg.layer]
        self.evaluation = PublishedEvaluation(model, layer, autoencoder, DRAWS)
        self.batches = study.activations.splits.test.tokens(range(num_blocks)).split(BATCH)

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
    args = parsed(parser)
    positions = args.blocks * 128
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"layer={args.layer}", f"eval_tokens={positions}", *args.overrides]
        study, autoencoder = trained_study(overrides, Path(folder))
        ours, theirs = Ours(study, autoencoder), Theirs(study, autoencoder, args.blocks)
        ours(), theirs()
        seconds = [(ours(), theirs()) for _ in range(args.rounds)]
    report(study, positions, seconds, ours.means(), theirs)


def shape_of(study: Study, theirs: Theirs) -> Shape:
    """Sizes of what was timed."""
    lm, cfg = study.activations.lm, study.cfg
    gated_mlp = getattr(theirs.evaluation.model.config, "intermediate_size", None)
    return Shape(
        Path(lm.path).name, lm.n_layers, lm.d_model, lm.d_vocab, gated_mlp, cfg.layer, cfg.sae.d_sae,
        cfg.sae.k, cfg.nfm.d_embed, cfg.context,
    )  # fmt: skip


def report(
    study: Study, positions: int, seconds: list[tuple[float, float]], means: dict[str, float], theirs: Theirs
) -> None:
    """Speeds, allowed speed-ups, and how the means compare."""
    here = shape_of(study, theirs)
    measurements = positions * (2 + DRAWS)
    speed = [measurements / statistics.median(column) for column in zip(*seconds, strict=True)]
    measured = statistics.median(b / a for a, b in seconds)
    exact = theirs.exact_means()
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
            Bar("speed against the published procedure", measured, 1.6),
            Bar("share of what operation counts allow", measured / allowed[here.name], 0.9),
            Bar("largest difference of a mean KL, nats", same, 1e-4, at_least=False),
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
        ],
        figures={"seconds": seconds, "allowed": allowed, "epsilon_effect": epsilon},
    ).publish()


if __name__ == "__main__":
    main()
