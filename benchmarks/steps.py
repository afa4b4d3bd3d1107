"""A training step of every SAE family: ours and, by their own trainers, SAELens's and sparsify's.

Learning rates are so small that an SAE stays what it was made: the L0 of the timing is the one asked for.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from quality import PREFIXES
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor, nn

from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.gated import GatedSAE
from sae_nfm.models.saes.jumprelu import JumpReLUSAE
from sae_nfm.models.saes.matryoshka import MatryoshkaSAE
from sae_nfm.models.saes.relu import ReLUSAE
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.training.objectives.reconstruction import Reconstruction

Step = Callable[[], None]
LR = 1e-9
OURS: dict[str, Callable[..., SparseAutoencoder]] = {
    "topk": TopKSAE,
    "batch_topk": BatchTopKSAE,
    "matryoshka": MatryoshkaSAE,
    "relu": ReLUSAE,
    "gated": GatedSAE,
    "jumprelu": JumpReLUSAE,
}
SPARSE = ("topk", "batch_topk", "matryoshka")
DECIDES_L0 = {"relu": {"b_enc": -1}, "gated": {"b_gate": -1, "b_mag": -1}, "jumprelu": {"threshold": 1}}
"""Of the families without k."""
NO_RESCALING = {"rescale_acts_by_decoder_norm": False}
SAE_LENS: dict[str, tuple[Any, Any, dict[str, dict[str, Any]]]] = {
    "topk": (
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
        {"": {}, ", no rescaling": NO_RESCALING, ", sparse": NO_RESCALING | {"use_sparse_activations": True}},
    ),
    "batch_topk": (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        {"": {}, ", no rescaling": NO_RESCALING},
    ),
    "matryoshka": (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        {"": {}, ", no rescaling": NO_RESCALING},
    ),
    "relu": (StandardTrainingSAE, StandardTrainingSAEConfig, {"": {}}),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {"": {}}),
    "jumprelu": (
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        {"": {}, ", quadratic": {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 32.0}},
    ),
}


def our_step(family: str, d_sae: int, l0: int, batches: list[Tensor], bf16: bool = False) -> Step:
    """What `SAETask` and Lightning do in a step, written out without Lightning; no latent counts as dead."""
    d_in, device = batches[0].shape[1], batches[0].device.type
    sae, normalizer = OURS[family](d_in, d_sae, l0), Normalizer(d_in)
    normalizer.fit(batches[0])
    sae.initialize_(normalizer(batches[0]))
    firing, objective = Firing(d_sae), Reconstruction()
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    stream = itertools.cycle(batches)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            x = normalizer(next(stream))
            attempt = sae.attempt(x, firing)
            loss = sum(attempt.terms.values(), start=objective.of_activation(x, attempt.reconstruction))
        firing.count(attempt.fired, attempt.l0, len(x))
        firing.tokens_since.zero_()
        optimizer.zero_grad()
        loss.backward()
        sae.before_step_()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        sae.after_step_()
        step.l0 = attempt.l0

    return step


def sae_lens_steps(
    family: str, d_sae: int, l0: int, batches: list[Tensor], bf16: bool = False
) -> dict[str, Step]:
    """`SAETrainer.step`, with its defaults but for batch size and precision, and what `fit` counts."""
    size, d_in = batches[0].shape
    of_family, config_of_family, variants = SAE_LENS[family]
    device = str(torch.get_default_device())
    settings: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "device": device}
    if family in SPARSE:
        settings["k"] = l0
    if family == "matryoshka":
        settings["matryoshka_widths"] = [round(prefix * d_sae) for prefix in PREFIXES]

    def step_of(variant: dict[str, Any]) -> Step:
        sae = of_family(config_of_family(**settings, **variant))
        at_l0_(family, sae, batches[0], l0)
        config = SAETrainerConfig(
            total_training_samples=10**9,
            train_batch_size_samples=size,
            lr=LR,
            lr_end=LR / 10,
            device=device,
            autocast=bf16,
        )
        stream: Iterator[Tensor] = itertools.cycle(batches)
        trainer = SAETrainer(config, sae, stream)

        def step() -> None:
            trainer.maybe_reset_sparsity()
            output = trainer.step(next(stream))
            trainer.n_training_steps += 1
            step.l0 = output.feature_acts.detach().bool().float().sum() / size

        return step

    return {f"sae-lens{name}": step_of(variant) for name, variant in variants.items()}


def sparsify_step(d_sae: int, k: int, batches: list[Tensor]) -> Step:
    """The step of sparsify's `Trainer.fit` with `optimizer="adam"`, without the language model it needs."""
    d_in = batches[0].shape[1]
    sae = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k), device=torch.get_default_device())
    sae.b_dec.data = batches[0].mean(0)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64)
    stream = itertools.cycle(batches)

    def step() -> None:
        x = next(stream)
        did_fire = torch.zeros(d_sae, dtype=torch.bool)
        sae.set_decoder_norm_to_unit_norm()
        total_variance = (x - x.mean(0)).pow(2).sum()
        out = sae(x=x, y=x, dead_mask=None, total_variance=total_variance)
        did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        tokens_since_fired.add_(len(x))
        tokens_since_fired[did_fire] = 0
        step.l0 = (out.latent_acts > 0).sum() / len(x)

    return step


@torch.no_grad()
def at_l0_(family: str, sae: Any, x: Tensor, l0: int) -> None:
    """Move a peer's biases or thresholds to where L0 is; ours starts there."""
    pre = (x - sae.b_dec) @ sae.W_enc
    height = pre.flatten().kthvalue(pre.numel() - l0 * len(x)).values
    for name, sign in DECIDES_L0.get(family, {}).items():
        getattr(sae, name).fill_(sign * height)
