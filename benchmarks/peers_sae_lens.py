"""SAELens's side of `explained_variance.py`: its trainer on given activations, its SAE as it is published.

All settings but `as it comes` have what ours have: the warm-up and decay of our schedule, activations scaled
to norm √d (`expected_average_only_in`), dead latents after a tenth of the run instead of 1000 steps, and the
nested dictionaries of our Matryoshka SAE. A penalty is warmed up over the first twentieth of the run, as its
tutorials do.
"""

import itertools
import tempfile
from typing import Any

from quality import PREFIXES
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAE
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from searching import Run, Search
from torch import Tensor

AS_IT_COMES = "as it comes"
ESTIMATED_ON = 16  # batches, for the scale of the activations
LR = 4e-3
TANH = {
    "jumprelu_sparsity_loss_mode": "tanh",
    "jumprelu_ste_to_input": True,
    "jumprelu_bandwidth": 2.0,
    "jumprelu_init_threshold": 0.1,
    "pre_act_loss_coefficient": 3e-6,
}

SEARCHES = {
    **{
        family: [Search(AS_IT_COMES, 3e-4, 16, searched=False), Search("", LR, 16)]
        for family in ("topk", "batch_topk", "matryoshka")
    },
    "relu": [Search("", LR, 1.0, exponent=-0.7)],
    "gated": [Search("", LR, 1.0, exponent=-0.7)],
    "jumprelu": [
        Search("quadratic 0.01", LR, 16.0, exponent=1.0),
        Search("quadratic 0.1", LR, 16.0, exponent=1.0),
        Search("step", LR, 0.3, exponent=-0.7),
        Search("tanh", LR, 0.5, exponent=-0.7),
    ],
}


def untrained(run: Run, num_steps: int, common: dict[str, Any]) -> Any:
    """Its SAE of the family, from its own initialisation."""
    sparsity, warm_up = run.sparsity, num_steps // 20
    widths = [round(prefix * common["d_sae"]) for prefix in PREFIXES]
    if run.family == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=round(sparsity), **common))
    if run.family == "batch_topk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=sparsity, **common))
    if run.family == "matryoshka":
        return MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(k=sparsity, matryoshka_widths=widths, **common)
        )
    if run.family == "relu":
        penalty = {"l1_coefficient": sparsity, "l1_warm_up_steps": warm_up}
        return StandardTrainingSAE(StandardTrainingSAEConfig(**penalty, **common))
    if run.family == "gated":
        penalty = {"l1_coefficient": sparsity, "l1_warm_up_steps": warm_up}
        return GatedTrainingSAE(GatedTrainingSAEConfig(**penalty, **common))
    return JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**jumprelu(run, num_steps), **common))


def jumprelu(run: Run, num_steps: int) -> dict[str, Any]:
    """Its three penalties: of Gemma Scope 2, of DeepMind's paper, of Anthropic."""
    mode, *coefficient = run.variant.split()
    if mode == "quadratic":
        return {
            "jumprelu_sparsity_loss_mode": mode,
            "l0_coefficient": float(coefficient[0]),
            "target_l0": run.sparsity,
            "l0_warm_up_steps": num_steps // 20,
        }
    if mode == "step":
        return {"l0_coefficient": run.sparsity, "l0_warm_up_steps": num_steps // 20}
    return TANH | {"l0_coefficient": run.sparsity, "l0_warm_up_steps": num_steps}


def train(x: Tensor, run: Run, batch: int, d_sae: int) -> SAE[Any]:
    """One run of its trainer over all of `x` in order; what it gives is saved for inference and loaded."""
    num_steps, schedule = len(x) // batch, {}
    normalize = "none" if run.variant == AS_IT_COMES else "expected_average_only_in"
    if run.variant != AS_IT_COMES:
        schedule = {
            "lr_warm_up_steps": round(0.02 * num_steps),
            "lr_decay_steps": round(0.3 * num_steps),
            "dead_feature_window": num_steps // 10,
        }
    sae = untrained(run, num_steps, {"d_in": x.shape[1], "d_sae": d_sae, "normalize_activations": normalize})
    settings = SAETrainerConfig(
        total_training_samples=num_steps * batch,
        train_batch_size_samples=batch,
        lr=run.lr,
        lr_end=run.lr,
        n_batches_for_norm_estimate=ESTIMATED_ON,
        **schedule,
    )
    batches = x.split(batch)
    first = () if normalize == "none" else batches[:ESTIMATED_ON]
    trained = SAETrainer(settings, sae, itertools.chain(first, batches)).fit()
    with tempfile.TemporaryDirectory() as folder:
        trained.save_inference_model(folder)
        return SAE.load_from_disk(folder)
