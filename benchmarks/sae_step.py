"""One training step of every SAE family: ours against SAELens and sparsify, each with its own trainer's step.

Needs the peers' environment (benchmarks/requirements.txt) and this project's `src` on PYTHONPATH.
"""

import argparse
from typing import NamedTuple

import torch
from steps import OURS, SPARSE, Step, our_step, sae_lens_steps, sparsify_step
from timing import Bar, Report, arguments, interleaved, parsed, speedup
from torch import Tensor, nn

from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.training.objectives.reconstruction import Reconstruction

MINE, SPARSIFY = "sae_nfm", "eai-sparsify"
BARS = {family: 2.0 if family in SPARSE else 1.0 for family in OURS} | {"topk": 3.0}


class Timed(NamedTuple):
    """What was measured of a family."""

    seconds: dict[str, list[float]]
    """Of a step, by contestant and round."""
    l0: dict[str, float]

    def least(self, name: str) -> float:
        """The fastest round: what other programs did is least in it."""
        return min(self.seconds[name])

    def ahead_of(self, names: str) -> float:
        """How many times faster ours is than the fastest whose name begins so."""
        return min(self.least(n) for n in self.seconds if n.startswith(names)) / self.least(MINE)


def activations(d_in: int, batch: int, num_batches: int) -> list[Tensor]:
    """Batches of sparse mixtures of 2048 directions and some noise: an SAE has something to find in them."""
    directions = nn.functional.normalize(torch.randn(2048, d_in), dim=1)
    batches = []
    for _ in range(num_batches):
        weights = torch.rand(batch, 2048) * (torch.rand(batch, 2048) < 0.01)
        batches.append(weights @ directions + 0.01 * torch.randn(batch, d_in) + 0.1)
    return batches


def timed(family: str, args: argparse.Namespace, batches: list[Tensor]) -> Timed:
    """All contestants of a family in turn."""
    sizes = (args.d_sae, args.l0, batches)
    contestants: dict[str, Step] = {MINE: our_step(family, *sizes, args.bf16)}
    if family == "topk":
        contestants[SPARSIFY] = sparsify_step(*sizes)
    contestants |= sae_lens_steps(family, *sizes, args.bf16)
    seconds = interleaved(contestants, args.rounds, args.calls, warm_up=2)
    return Timed(seconds, {name: float(step.l0) for name, step in contestants.items()})


def encoder_seconds(args: argparse.Namespace, x: Tensor) -> float:
    """The pre-activations alone, which no TopK step can leave out."""
    weight, bias = torch.randn(args.d_sae, args.d_in), torch.zeros(args.d_sae)
    if args.bf16:
        weight, bias, x = weight.bfloat16(), bias.bfloat16(), x.bfloat16()
    product = {"encoder": lambda: torch.addmm(bias, x, weight.t())}
    return min(interleaved(product, args.rounds, args.calls, warm_up=2)["encoder"])


def gradient_difference(d_sae: int, k: int, x: Tensor) -> float:
    """Largest ‖g − g_dense‖ / ‖g_dense‖ of a TopK parameter, where a fifth of the latents counts as dead.

    g_dense comes from autograd through pre-activations and codes with all latents written out.
    """
    sae = TopKSAE(x.shape[1], d_sae, k, b_dec_init="mean")
    sae.initialize_(x)
    firing = Firing(d_sae)
    firing.tokens_since[torch.rand(d_sae) < 0.2] = sae.dead_after + 1
    attempt = sae.attempt(x, firing)
    loss = Reconstruction().of_activation(x, attempt.reconstruction) + attempt.terms["auxk"]
    parameters = list(sae.parameters())
    ours = torch.autograd.grad(loss, parameters)
    dense = torch.autograd.grad(dense_loss(sae, x, firing.silent_for(sae.dead_after)), parameters)
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
    return fvu + sae.auxk_coefficient * (residual - predicted).pow(2).sum() / residual.pow(2).sum()


def main() -> None:
    """Time the steps in turn and write the table."""
    parser = arguments(__doc__, d_in=256, d_sae=8192, l0=32, batch=2048, rounds=8, calls=1)
    parser.add_argument("--families", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16, as sparsify always does")
    args = parsed(parser)
    torch.manual_seed(0)
    batches = activations(args.d_in, args.batch, 4)
    found = {family: timed(family, args, batches) for family in args.families}
    difference = gradient_difference(args.d_sae, args.l0, batches[0])
    report(args, found, difference, encoder_seconds(args, batches[0]))


def report(args: argparse.Namespace, found: dict[str, Timed], difference: float, encoder: float) -> None:
    """Fastest rounds, their quotients, and the bars."""
    bars = [
        Bar(f"{family}: speed against the fastest sae-lens", one.ahead_of("sae-lens"), BARS[family])
        for family, one in found.items()
    ]
    if "topk" in found:
        bars.append(Bar("topk: speed against eai-sparsify", found["topk"].ahead_of(SPARSIFY), 1.5))
    bars.append(
        Bar("topk: largest relative gradient difference from dense autograd", difference, 1e-5, False)
    )
    Report(
        name=args.name or "sae_step",
        title=f"SAE training step, {'bfloat16 products' if args.bf16 else 'float32'}, {args.device}, "
        + ", ".join(f"{name} {getattr(args, name)}" for name in ("d_in", "d_sae", "l0", "batch")),
        columns=("", "ms/step", "tokens/s", "sae_nfm is faster by", "median over rounds", "L0"),
        rows=[
            [f"{family}: {name}", 1e3 * one.least(name), round(args.batch / one.least(name)),
             one.least(name) / one.least(MINE), speedup(one.seconds, MINE, name), one.l0[name]]
            for family, one in found.items()
            for name in one.seconds
        ],
        bars=bars,
        notes=[
            "Forward, loss, backward, Adam, and what each trainer does besides: sae-lens and ours clip the "
            "gradient, sparsify and ours keep the decoder's rows at unit norm and project its gradient where "
            "the family does, ours normalises activations. No latent counts as dead during the timing, "
            "biases and thresholds are where L0 is as it says, and learning rates so small that they stay "
            f"there. Fastest of {args.rounds} interleaved rounds, and the median of the quotients within a "
            "round. sae-lens with sparse activations needs rescale_acts_by_decoder_norm=False: with both, "
            "its backward pass fails on a CPU (NotImplementedError, aten::view on SparseCPU).",
            f"The encoder's matrix product, which is the limit, takes {1e3 * encoder:.3g} ms: "
            + ", ".join(f"{encoder / one.least(MINE):.0%} of a step ({name})" for name, one in found.items())
            + ".",
        ],
        figures={family: one._asdict() for family, one in found.items()},
    ).publish()  # fmt: skip


if __name__ == "__main__":
    main()
