"""The peers' side of `explained_variance.py`, in their environment: search on given activations, and look.

`python explained_variance_peers.py FOLDER …` reads `train.npy` and `held_out.npy` and leaves a line of
`peers.jsonl` for every run.
"""

import argparse
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import look
from searching import Found, Journal, Run, search

LIBRARIES = {"sae-lens": "peers_sae_lens", "dictionary-learning": "peers_dictionary_learning"}


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
                found = look(sae.encode, sae.decode, held_out, args.d_sae, run.family == "matryoshka")
                return found | {"seconds": round(seconds, 1)}

            journal = Journal(args.folder / "peers.jsonl", make)
            search(journal, library, family, module.SEARCHES[family], args.l0, args.seeds)


if __name__ == "__main__":
    main()
