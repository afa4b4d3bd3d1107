"""Sums over codes from the active latents alone, or with all latents written out: which is faster when.

The first table is what `models/crossover.py` chooses by; the second holds whole training steps, which make
that choice, against plain dense torch.
"""

import argparse
from collections.abc import Callable

import torch
from nfm_step import OURS as MINE
from nfm_step import PRODUCTS, Shape, step_of
from timing import Bar, Report, arguments, interleaved, markdown, parsed, speedup
from torch import Tensor, nn

from sae_nfm.models import codes
from sae_nfm.models.codes import inner_products, summed, transposed_sum
from sae_nfm.models.crossover import CROSSOVERS, Crossover, products
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.training.objectives.reconstruction import Reconstruction

DENSE = "plain dense torch"
ALWAYS, NEVER = Crossover(0.0, 0.0, 0.0), Crossover(2.0, 2.0, 2.0)


class PlainTopK(nn.Module):
    """A TopK SAE as one writes it down first."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.W_enc = nn.Parameter(torch.randn(d_in, d_sae) / d_in**0.5)
        self.W_dec = nn.Parameter(self.W_enc.detach().t().clone())
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(d_in))

    def forward(self, x: Tensor) -> Tensor:
        """x̂, with all latents written out."""
        top = ((x - self.b_dec) @ self.W_enc + self.b_enc).topk(self.k, dim=-1)
        f = x.new_zeros(len(x), len(self.W_dec)).scatter(-1, top.indices, top.values.relu())
        return f @ self.W_dec + self.b_dec


def sae_step(mine: bool, d_in: int, d_sae: int, k: int, batch: int) -> Callable[[], None]:
    """Forward, loss, backward and Adam."""
    torch.manual_seed(0)
    x = torch.randn(batch, d_in)
    sae = TopKSAE(d_in, d_sae, k, b_dec_init="zero") if mine else PlainTopK(d_in, d_sae, k)
    if isinstance(sae, TopKSAE):
        sae.initialize_(x)
    firing, objective = Firing(d_sae), Reconstruction()
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-9, fused=True)

    def step() -> None:
        made = sae.attempt(x, firing).reconstruction if isinstance(sae, TopKSAE) else sae(x)
        optimizer.zero_grad()
        objective.of_activation(x, made).backward()
        optimizer.step()

    return step


def operation(name: str, width: int, d_sae: int, k: int, batch: int) -> Callable[[], Tensor]:
    """One of the three sums, over random codes."""
    indices = torch.stack([torch.randperm(d_sae)[:k] for _ in range(batch)])
    values, rows = torch.rand(batch, k), torch.randn(batch, width)
    weight = torch.randn(d_sae, width)
    if name == "weighted":
        return lambda: summed(values, indices, weight)
    if name == "inner":
        return lambda: inner_products(rows, indices, weight)
    return lambda: transposed_sum(values, indices, rows, d_sae)


def in_either_way(act: Callable[[], Tensor], rounds: int) -> float:
    """How many times faster the active latents alone are."""

    def by(crossover: Crossover) -> Callable[[], Tensor]:
        def run() -> Tensor:
            CROSSOVERS[device] = crossover
            return act()

        return run

    device = products(torch.get_default_device())
    chosen = CROSSOVERS[device]
    try:
        seconds = interleaved({"active": by(NEVER), "all": by(ALWAYS)}, rounds)
    finally:
        CROSSOVERS[device] = chosen
    return speedup(seconds, "active", "all")


def operations(args: argparse.Namespace) -> list[list[object]]:
    """Rows of the first table."""
    return [
        [f"{name}, width {width}", *(
            in_either_way(operation(name, width, args.d_sae, args.d_sae // share, args.batch), args.rounds)
            for share in args.shares
        )]
        for name in Crossover._fields
        for width in (64, 256, 768)
    ]  # fmt: skip


def steps(args: argparse.Namespace) -> list[list[object]]:
    """Rows of the second table: what, milliseconds of ours and of plain torch, and their quotient."""
    rows = []
    for k in (32, 256, 1024):
        for d_in in (256, 768):
            seconds = interleaved(
                {side: sae_step(side == MINE, d_in, args.d_sae, k, args.batch) for side in (MINE, DENSE)},
                args.rounds,
            )
            rows.append(_row(f"SAE, d {d_in}, k {k}", seconds))
        shape = Shape(args.batch, args.d_sae, 64, k)
        seconds = interleaved({MINE: step_of(MINE, shape), DENSE: step_of(PRODUCTS, shape)}, args.rounds)
        rows.append(_row(f"NFM, d_embed 64, d 256, k {k}", seconds))
    return rows


def _row(what: str, seconds: dict[str, list[float]]) -> list[object]:
    least = [1e3 * min(seconds[side]) for side in (MINE, DENSE)]
    return [what, *least, speedup(seconds, MINE, DENSE)]


def main() -> None:
    """Measure both tables and write them."""
    parser = arguments(__doc__, d_sae=8192, batch=1024, rounds=5)
    parser.add_argument("--multiply", choices=("float32", "TF32", "bfloat16"), default="float32")
    parser.add_argument("--shares", type=int, nargs="+", default=[32, 16, 8, 4, 2], help="d_sae / k")
    args = parsed(parser)
    torch.set_float32_matmul_precision("high" if args.multiply == "TF32" else "highest")
    with torch.autocast(args.device, torch.bfloat16, enabled=args.multiply == "bfloat16"):
        found = steps(args)
        shares = markdown(
            ("active alone is faster by, at k/d_sae", *(f"1/{share}" for share in args.shares)),
            operations(args),
        )
        chosen = CROSSOVERS[products(torch.device(args.device))]
    Report(
        name=args.name or "crossover",
        title=f"Steps on codes against plain dense torch, {args.multiply}, "
        f"{args.device}, d_sae {args.d_sae}, {args.batch} tokens",
        columns=("", "sae_nfm, ms", f"{DENSE}, ms", "sae_nfm is faster by"),
        rows=found,
        bars=[Bar(f"{row[0]}: speed against plain dense torch", float(str(row[-1])), 1.0) for row in found],
        notes=[
            "Above 1 the active latents alone are faster. `models/crossover.py` writes all out from these "
            f"shares on: {chosen._asdict()}; at most {codes.DENSE[args.device]:,} numbers at once.",
        ],
        figures={},
        sections=[shares],
    ).publish()


if __name__ == "__main__":
    main()
