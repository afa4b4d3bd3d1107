"""One training step of the NFM: from the active latents alone, or with all latents written out."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
from memory import peak_of
from timing import Bar, Report, arguments, interleaved, parsed, speedup
from torch import Tensor

from sae_nfm.models.codes import Codes
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine

OURS, DENSE, PRODUCTS = "sae_nfm", "dense: f_i v_i as a tensor", "dense: two matrix products"
D_OUT = 256


class Shape(NamedTuple):
    """Sizes of the step."""

    batch: int
    d_sae: int
    d_embed: int
    k: int


def dense_tensor(nfm: NeuralFactorizationMachine, f: Tensor) -> Tensor:
    """r̂ with {f_i v_i} as one [token, d_sae, d_embed] tensor: the formula as it stands."""
    fv = f.unsqueeze(-1) * nfm.V
    pooled = (fv.sum(1).pow(2) - fv.pow(2).sum(1)) / 2
    return f @ nfm.W_lin + nfm.b + nfm.head(pooled * nfm.pool_scale)


def dense_products(nfm: NeuralFactorizationMachine, f: Tensor) -> Tensor:
    """r̂ with ½[(f V)² − f² V²], two [token, d_sae] × [d_sae, d_embed] products."""
    pooled = ((f @ nfm.V).pow(2) - f.pow(2) @ nfm.V.pow(2)) / 2
    return f @ nfm.W_lin + nfm.b + nfm.head(pooled * nfm.pool_scale)


def predictor(name: str, nfm: NeuralFactorizationMachine, codes: Codes) -> Callable[[], Tensor]:
    """r̂ of fixed codes in one of the three ways."""
    if name == OURS:
        return lambda: nfm(codes).total
    f = codes.dense(len(nfm.W_lin))
    return lambda: (dense_tensor if name == DENSE else dense_products)(nfm, f)


def make(shape: Shape) -> tuple[NeuralFactorizationMachine, Codes, Tensor]:
    """The same NFM, codes and residual for every contestant."""
    torch.manual_seed(0)
    nfm = NeuralFactorizationMachine(
        shape.d_sae, D_OUT, order=2, d_embed=shape.d_embed, embed_std=0.03, linear=True, bias=True,
        interaction=True, mlp=False, dropout=0.0, fit="together", fit_k=None,
    )  # fmt: skip
    indices = torch.stack([torch.randperm(shape.d_sae)[: shape.k] for _ in range(shape.batch)])
    codes = Codes(torch.rand(shape.batch, shape.k), indices)
    nfm.initialize_(codes)
    torch.nn.init.normal_(nfm.head.W_out)  # at 0 the embeddings' gradients would be compared as zeros
    return nfm, codes, torch.randn(shape.batch, D_OUT)


def step_of(name: str, shape: Shape) -> Callable[[], None]:
    """Forward, loss, backward and Adam."""
    nfm, codes, residual = make(shape)
    predict = predictor(name, nfm, codes)
    optimizer = torch.optim.Adam(nfm.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        ((residual - predict()).pow(2).sum() / residual.pow(2).sum()).backward()
        optimizer.step()

    return step


def gradient_difference(shape: Shape) -> float:
    """Largest ‖g − g_dense‖ / ‖g_dense‖ of a parameter, without dropout."""
    nfm, codes, residual = make(shape)
    nfm.eval()
    parameters = list(nfm.parameters())
    ours, dense = (
        torch.autograd.grad((residual - predictor(name, nfm, codes)()).pow(2).mean(), parameters)
        for name in (OURS, PRODUCTS)
    )
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, dense, strict=True))


def peak_memory(name: str, shape: Shape) -> float:
    """MiB by which two steps raise the peak of resident memory, gradients and Adam's state included."""
    step = step_of(name, shape)

    def two_steps() -> None:
        step()
        step()

    return peak_of(two_steps) / 2**20


def in_own_process(name: str, shape: Shape) -> float:
    """`peak_memory` in a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, name, shape).result()


def main() -> None:
    """Measure the peaks, time the steps in turn, and write the table."""
    args = parsed(arguments(__doc__, batch=1024, d_sae=8192, d_embed=64, k=32, rounds=5))
    shape = Shape(args.batch, args.d_sae, args.d_embed, args.k)
    names = (OURS, DENSE, PRODUCTS)
    memory = {name: in_own_process(name, shape) for name in names}
    seconds = interleaved({name: step_of(name, shape) for name in names}, args.rounds)
    report(shape, seconds, memory, gradient_difference(shape))


def report(
    shape: Shape, seconds: dict[str, list[float]], memory: dict[str, float], difference: float
) -> None:
    """Medians, quotients within a round, and the bars."""
    median = {name: float(torch.tensor(values).median()) for name, values in seconds.items()}
    Report(
        name="nfm_step",
        title="NFM training step, order 2, " + ", ".join(f"{n} {v}" for n, v in shape._asdict().items()),
        columns=("", "ms/step", "tokens/s", "sae_nfm is faster by", "peak MiB"),
        rows=[
            [name, 1e3 * median[name], round(shape.batch / median[name]), speedup(seconds, OURS, name),
             round(memory[name])]
            for name in seconds
        ],
        bars=[
            Bar("speed against the dense tensor", speedup(seconds, OURS, DENSE), 10.0),
            Bar("memory against the dense tensor", memory[OURS] / memory[DENSE], 0.1, at_least=False),
            Bar("largest relative gradient difference from dense autograd", difference, 1e-5, at_least=False),
        ],
        notes=[
            f"Forward, loss, backward and Adam for given codes and residuals of width {D_OUT}, float32. "
            "Peak: how far two steps raise the resident memory (VmHWM) of a process of their own above what "
            "model and data take; gradients and Adam's state are in it.",
        ],
        figures={"seconds": seconds, "peak_mib": memory},
    ).publish()  # fmt: skip


if __name__ == "__main__":
    main()
