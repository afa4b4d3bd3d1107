"""SAELens's side of `explained_variance.py`, in the peers' environment: train on given activations and look.

The first setting is SAELens as it comes. The others give it what ours has: the warm-up and decay of our
schedule, AuxK for latents that have been silent for a tenth of the run instead of its default of 1000 steps,
and, in half of them, activations scaled to norm √d (`expected_average_only_in`); the learning rate is
searched.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

AS_IT_COMES = {"lr": 3e-4, "normalize": "none", "scheduled": False}
GRID = [AS_IT_COMES] + [
    {"lr": lr, "normalize": normalize, "scheduled": True}
    for normalize in ("none", "expected_average_only_in")
    for lr in (4e-3, 8e-3, 16e-3)
]
ESTIMATED_ON = 16  # batches, for the scale of the activations


def train(x: Tensor, args: argparse.Namespace, lr: float, normalize: str, scheduled: bool) -> TopKTrainingSAE:
    """One run of its trainer over all of `x` in order."""
    torch.manual_seed(0)
    num_steps = len(x) // args.batch
    schedule: dict[str, Any] = {}
    if scheduled:
        schedule = {
            "lr_warm_up_steps": round(0.02 * num_steps),
            "lr_decay_steps": round(0.3 * num_steps),
            "dead_feature_window": num_steps // 10,
        }
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=args.d_sae, k=args.k, normalize_activations=normalize)
    )
    settings = SAETrainerConfig(
        total_training_samples=num_steps * args.batch,
        train_batch_size_samples=args.batch,
        lr=lr,
        lr_end=lr,
        n_batches_for_norm_estimate=ESTIMATED_ON,
        **schedule,
    )
    batches = x.split(args.batch)
    first = batches[:ESTIMATED_ON] if normalize == "expected_average_only_in" else ()
    return SAETrainer(settings, sae, itertools.chain(first, batches)).fit()


@torch.no_grad()
def look(sae: TopKTrainingSAE, held_out: Tensor) -> dict[str, float]:
    """Explained variance, dead latents and L0, in float64 sums."""
    error, active, fired = 0.0, 0, torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    for x in held_out.split(8192):
        codes = sae.encode(x)
        error += float((x - sae.decode(codes)).double().pow(2).sum())
        active += int((codes > 0).sum())
        fired |= (codes > 0).any(0)
    variance = float((held_out.double() - held_out.double().mean(0)).pow(2).sum())
    return {
        "explained_variance": 1 - error / variance,
        "dead_fraction": float((~fired).double().mean()),
        "l0": active / len(held_out),
    }


def main() -> None:
    """Run the grid and leave `sae_lens.json` in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("d-sae", "k", "batch", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = torch.from_numpy(np.load(args.folder / "train.npy"))
    held_out = torch.from_numpy(np.load(args.folder / "held_out.npy"))
    found = []
    for setting in GRID:
        started = time.perf_counter()
        sae = train(x, args, **setting)
        name = f"lr {setting['lr']}, normalize {setting['normalize']}"
        name += ", schedule and AuxK like ours" if setting["scheduled"] else ", defaults"
        found.append({"setting": name, **look(sae, held_out), "seconds": time.perf_counter() - started})
        print(found[-1], flush=True)
    (args.folder / "sae_lens.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
