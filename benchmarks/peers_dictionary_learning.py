"""dictionary_learning's side of `explained_variance.py`: the loop of its `trainSAE` on given activations.

Its defaults are for runs of ten thousands of steps: warm-ups of 1000 or 2000 steps, latents dead after 10M
tokens, a threshold that is first set after 1000 steps and follows over another 1000. They get what ours have:
warm-up and decay of our schedule, latents dead after a tenth of the run, the nested dictionaries of our
Matryoshka SAE; the threshold follows over the last half of the run. A penalty is warmed up over the first
tenth. Activations are scaled to a mean squared norm of 1, as its `normalize_activations` does.
"""

from typing import Any

from dictionary_learning.dictionary import Dictionary
from dictionary_learning.trainers import (
    BatchTopKTrainer,
    GatedSAETrainer,
    JumpReluTrainer,
    StandardTrainer,
    TopKTrainer,
)
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from searching import Run, Search
from torch import Tensor

GROUPS = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
WEIGHTED = "weighted as ours"
TRAINERS: dict[str, Any] = {
    "topk": TopKTrainer,
    "batch_topk": BatchTopKTrainer,
    "matryoshka": MatryoshkaBatchTopKTrainer,
    "relu": StandardTrainer,
    "gated": GatedSAETrainer,
    "jumprelu": JumpReluTrainer,
}
LR = 4e-3

SEARCHES = {
    **{
        family: [Search("its own lr", 8e-4, 16, searched=False), Search("", LR, 16)]
        for family in ("topk", "batch_topk")
    },
    "matryoshka": [
        Search("", LR, 16),
        Search(WEIGHTED, LR, 16),
    ],
    "relu": [
        Search("", LR, 0.05, exponent=-0.7),
        Search("April update", LR, 0.05, exponent=-0.7),
    ],
    "gated": [Search("", LR, 0.05, exponent=-0.7)],
    "jumprelu": [
        Search("bandwidth 0.001", LR, 16.0, exponent=1.0),
        Search("bandwidth 0.01", LR, 16.0, exponent=1.0),
    ],
}


def trainer_of(run: Run, num_steps: int, d_in: int, d_sae: int) -> Any:
    """Its trainer of the family."""
    trainer, settings = TRAINERS[run.family], {}
    if run.family in ("topk", "batch_topk", "matryoshka"):
        settings = {"k": round(run.sparsity), "threshold_start_step": num_steps // 2, "threshold_beta": 0.99}
    else:
        settings["sparsity_warmup_steps"] = num_steps // 10
    if run.family == "matryoshka":
        settings["group_fractions"] = GROUPS
    if run.variant == WEIGHTED:
        settings["group_weights"] = [0.25, 0.25, 0.25, 0.25, 1.0]
    if run.family in ("relu", "gated"):
        settings["l1_penalty"] = run.sparsity
    if run.family == "jumprelu":
        settings |= {"target_l0": run.sparsity, "bandwidth": float(run.variant.split()[1])}
    if run.variant == "April update":
        trainer = StandardTrainerAprilUpdate
    made = trainer(
        steps=num_steps, activation_dim=d_in, dict_size=d_sae, layer=0, lm_name="", lr=run.lr, device="cpu",
        seed=run.seed, warmup_steps=round(0.02 * num_steps), decay_start=round(0.7 * num_steps), **settings,
    )  # fmt: skip
    if hasattr(made, "dead_feature_threshold"):
        made.dead_feature_threshold = 200_000
    return made


def train(x: Tensor, run: Run, batch: int, d_sae: int) -> Dictionary:
    """One run of its trainer over all of `x` in order; what it gives reads activations as they are."""
    num_steps = len(x) // batch
    trainer = trainer_of(run, num_steps, x.shape[1], d_sae)
    norm = float(x[: 100 * batch].pow(2).sum(1).mean().sqrt())
    for step, activations in enumerate(x[: num_steps * batch].split(batch)):
        trainer.update(step, activations / norm)
    trainer.ae.scale_biases(norm)
    return trainer.ae.eval()
