"""The peers' side of `explained_variance.py`, in their environment: search on given activations, and look.

`python explained_variance_peers.py FOLDER …` reads `train.npy` and `held_out.npy` and leaves a line of
`peers.jsonl` for every run.
"""

import argparse
import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from searching import Found, Journal, Run, search
from torch import Tensor

PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
LIBRARIES = {"sae-lens": "peers_sae_lens", "dictionary-learning": "peers_dictionary_learning"}


@torch.no_grad()
def look(sae: Any, held_out: Tensor, d_sae: int, prefixes: Sequence[float]) -> Found:
    """Explained variance, dead latents and L0 of an SAE at inference, in float64 sums.

    Args:
        sae: encodes and decodes.
        held_out: activations.
        d_sae: number of latents.
        prefixes: fractions of the latents whose explained variance alone is asked for too, 1 the last.
    """
    sizes = [round(prefix * d_sae) for prefix in prefixes]
    errors, active, fired = [0.0] * len(sizes), 0, torch.zeros(d_sae, dtype=torch.bool)
    for x in held_out.split(8192):
        codes = sae.encode(x)
        active += int((codes > 0).sum())
        fired |= (codes > 0).any(0)
        for i in reversed(range(len(sizes))):
            codes[:, sizes[i] :] = 0
            errors[i] += float((x - sae.decode(codes)).double().pow(2).sum())
    variance = float((held_out.double() - held_out.double().mean(0)).pow(2).sum())
    explained = [1 - error / variance for error in errors]
    found = {
        "explained_variance": explained[-1],
        "l0": active / len(held_out),
        "dead_fraction": float((~fired).double().mean()),
    }
    return found | ({"prefixes": explained} if len(sizes) > 1 else {})


def main() -> None:
    """Search every family of every library that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("d-sae", "l0", "batch", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--families", nargs="+", required=True)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    x = torch.from_numpy(np.load(args.folder / "train.npy"))
    held_out = torch.from_numpy(np.load(args.folder / "held_out.npy"))
    for family in args.families:
        for library in args.libraries:
            module = importlib.import_module(LIBRARIES[library])

            def make(run: Run, module: Any = module) -> Found:
                torch.manual_seed(run.seed)
                started = time.perf_counter()
                sae = module.train(x, run, args.batch, args.d_sae)
                seconds = time.perf_counter() - started
                prefixes = PREFIXES if run.family == "matryoshka" else (1,)
                return look(sae, held_out, args.d_sae, prefixes) | {"seconds": round(seconds, 1)}

            journal = Journal(args.folder / "peers.jsonl", make)
            search(journal, library, family, module.SEARCHES[family], args.l0, args.seeds)


if __name__ == "__main__":
    main()
