"""One training step of a TopK SAE: ours against SAELens and sparsify, each with the step of its own trainer.

Needs the peers' environment (benchmarks/requirements.txt) and this project's `src` on PYTHONPATH.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from sparsify import SparseCoder, SparseCoderConfig
from timing import Bar, Report, arguments, interleaved, parsed, speedup
from torch import Tensor, nn

from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.training.objectives import Reconstruction

OURS, SPARSIFY = "sae_nfm", "eai-sparsify"
SAE_LENS = {
    "sae-lens": {},
    "sae-lens, no rescaling": {"rescale_acts_by_decoder_norm": False},
    "sae-lens, sparse": {"rescale_acts_by_decoder_norm": False, "use_sparse_activations": True},
}


def activations(d_in: int, batch: int, num_batches: int) -> list[Tensor]:
    """Batches of sparse mixtures of 2048 directions and some noise: an SAE has something to find in them."""
    directions = nn.functional.normalize(torch.randn(2048, d_in), dim=1)
    batches = []
    for _ in range(num_batches):
        weights = torch.rand(batch, 2048) * (torch.rand(batch, 2048) < 0.01)
        batches.append(weights @ directions + 0.01 * torch.randn(batch, d_in) + 0.1)
    return batches


def our_step(d_sae: int, k: int, batches: list[Tensor]) -> Callable[[], None]:
    """What `SAETask` and Lightning do in a step, written out without Lightning."""
    d_in = batches[0].shape[1]
    sae, normalizer = TopKSAE(d_in, d_sae, k, "mean", None, 1 / 32, 200_000), Normalizer(d_in)
    normalizer.fit(batches[0])
    sae.initialize_(normalizer(batches[0]))
    objective = Reconstruction(auxk=None, auxk_coefficient=1 / 32)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64)
    stream = itertools.cycle(batches)

    def step() -> None:
        x = normalizer(next(stream))
        codes = sae.encode(x)
        loss = objective.sae_loss(sae, x, sae.decode(codes), tokens_since_fired > 200_000)
        count = torch.zeros_like(tokens_since_fired).index_fill_(0, codes.indices[codes.values > 0], 1)
        tokens_since_fired.add_(len(x))
        tokens_since_fired[count > 0] = 0
        optimizer.zero_grad()
        loss.total.backward()
        sae.project_decoder_gradient_()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        sae.normalize_decoder_()

    return step


def sae_lens_step(d_sae: int, k: int, batches: list[Tensor], settings: dict[str, bool]) -> Callable[[], None]:
    """`SAETrainer.step`, with its defaults but for the batch size, and what `fit` counts."""
    size, d_in = batches[0].shape
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, **settings))
    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=size, lr_end=3e-5)
    stream: Iterator[Tensor] = itertools.cycle(batches)
    trainer = SAETrainer(config, sae, stream)

    def step() -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(next(stream))
        trainer.n_training_steps += 1

    return step


def sparsify_step(d_sae: int, k: int, batches: list[Tensor]) -> Callable[[], None]:
    """The step of sparsify's `Trainer.fit` with `optimizer="adam"`, without the language model it needs."""
    d_in = batches[0].shape[1]
    sae = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k))
    sae.b_dec.data = batches[0].mean(0)
    optimizer = torch.optim.Adam(sae.parameters(), lr=2e-4 / (d_sae / 2**14) ** 0.5)
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

    return step


def gradient_difference(d_sae: int, k: int, x: Tensor) -> float:
    """Largest ‖g − g_dense‖ / ‖g_dense‖ of a parameter, where a fifth of the latents counts as dead.

    g_dense comes from autograd through pre-activations and codes with all latents written out.
    """
    sae = TopKSAE(x.shape[1], d_sae, k, b_dec_init="mean")
    sae.initialize_(x)
    dead = torch.rand(d_sae) < 0.2
    objective = Reconstruction(auxk=None, auxk_coefficient=1 / 32)
    parameters = list(sae.parameters())
    ours = torch.autograd.grad(objective.sae_loss(sae, x, sae(x), dead).total, parameters)
    dense = torch.autograd.grad(dense_loss(sae, x, dead), parameters)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, dense, strict=True))


def dense_loss(sae: TopKSAE, x: Tensor, dead: Tensor) -> Tensor:
    """The same loss with all latents written out, from the latents that ours selects.

    Where two pre-activations are equal but for rounding, another product would select others.
    """

    def kept(pre: Tensor, indices: Tensor) -> Tensor:
        return torch.zeros_like(pre).scatter(-1, indices, pre.gather(-1, indices).relu())

    selected = sae.encode(x).indices
    reconstruction = kept((x - sae.b_dec) @ sae.W_enc + sae.b_enc, selected) @ sae.W_dec + sae.b_dec
    fvu = (x - reconstruction).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    residual, rows = (x - reconstruction).detach(), dead.nonzero().squeeze(1)
    pre = torch.addmm(sae.b_enc[rows], x - sae.b_dec, sae.W_enc_rows[rows].t())
    predicted = kept(pre, pre.topk(x.shape[1] // 2, dim=-1).indices) @ sae.W_dec[rows]
    return fvu + (residual - predicted).pow(2).sum() / residual.pow(2).sum() / 32


def main() -> None:
    """Time the steps in turn and write the table."""
    args = parsed(arguments(__doc__, d_in=256, d_sae=8192, k=32, batch=2048, rounds=12, calls=3))
    torch.manual_seed(0)
    batches = activations(args.d_in, args.batch, 4)
    contestants = {
        OURS: our_step(args.d_sae, args.k, batches),
        SPARSIFY: sparsify_step(args.d_sae, args.k, batches),
        **{name: sae_lens_step(args.d_sae, args.k, batches, settings) for name, settings in SAE_LENS.items()},
    }
    seconds = interleaved(contestants, args.rounds, args.calls, warm_up=2)
    report(args, seconds, gradient_difference(args.d_sae, args.k, batches[0]))


def report(args: argparse.Namespace, seconds: dict[str, list[float]], difference: float) -> None:
    """Medians, quotients within a round, and the bars."""
    median = {name: float(torch.tensor(values).median()) for name, values in seconds.items()}
    against_sae_lens = min(speedup(seconds, OURS, name) for name in SAE_LENS)
    Report(
        name="sae_step",
        title="SAE training step, float32, "
        + ", ".join(f"{name} {getattr(args, name)}" for name in ("d_in", "d_sae", "k", "batch")),
        columns=("", "ms/step", "tokens/s", "sae_nfm is faster by"),
        rows=[
            [name, 1e3 * median[name], round(args.batch / median[name]), speedup(seconds, OURS, name)]
            for name in seconds
        ],
        bars=[
            Bar("speed against the faster sae-lens", against_sae_lens, 3.0),
            Bar("speed against eai-sparsify", speedup(seconds, OURS, SPARSIFY), 1.2),
            Bar("largest relative gradient difference from dense autograd", difference, 1e-5, at_least=False),
        ],
        notes=[
            "Forward, loss, backward, Adam, and what each trainer does besides: sae-lens and ours clip the "
            "gradient, sparsify and ours keep the decoder's rows at unit norm and project its gradient, ours "
            "normalises activations. No latent counts as dead during the timing. Medians over interleaved "
            "rounds. sae-lens with sparse activations needs rescale_acts_by_decoder_norm=False: with both, "
            "its backward pass fails on a CPU (NotImplementedError, aten::view on SparseCPU).",
        ],
        figures={"seconds": seconds},
    ).publish()


if __name__ == "__main__":
    main()
