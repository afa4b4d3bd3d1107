"""Linear parts and linear controls, solved on training tokens with a ridge that held-out tokens choose."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sae_nfm import progress
from sae_nfm.data.activations import ActivationSequence
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.codes import Codes
from sae_nfm.models.least_squares import RIDGES, NormalEquations
from sae_nfm.models.residuals.linear import LinearControl
from sae_nfm.store.files import write_atomically
from sae_nfm.training.weights import METRICS, WEIGHTS, save_weights

_CHUNK = 8192


@torch.no_grad()
def solve(
    control: LinearControl,
    autoencoder: Autoencoder,
    training: ActivationSequence,
    num_tokens: int,
    validation: ActivationSequence,
    num_validation: int,
    folder: Path,
) -> None:
    """Solve a built control in place, and leave weights and metrics in the folder.

    Of `RIDGES` the one counts that explains most of the residual of the validation tokens.
    """
    started = time.perf_counter()
    autoencoder = autoencoder.to(training.device)
    d_in, d_sae = autoencoder.sae.d_in, autoencoder.sae.d_sae
    equations = NormalEquations(
        control.num_features(d_in, d_sae), d_in, control.has_bias, autoencoder.normalizer.scale.device
    )
    done = 0
    with progress.line("linear part", num_tokens) as line:
        for x, codes, residual in _residuals(autoencoder, training, num_tokens):
            equations.add(control.features(x, codes), residual)
            done += len(residual)
            line.at(done)
    seconds = time.perf_counter() - started
    solutions = [equations.solve(ridge) for ridge in RIDGES]
    left = torch.zeros(len(RIDGES), dtype=torch.float64)
    total = 0.0
    control.to(equations.cross.device)
    for x, codes, residual in _residuals(autoencoder, validation, num_validation):
        total += float(residual.double().pow(2).sum())
        for i, solution in enumerate(solutions):
            control.set_(*solution)
            left[i] += float((residual - control.residual(x, codes)).double().pow(2).sum())
    best = int(left.argmin())
    control.set_(*solutions[best])
    metrics = {
        "residual_explained": 1 - float(left[best]) / total,
        "ridge": RIDGES[best],
        "train_tokens": num_tokens,
        "tokens_per_s": num_tokens / seconds,
    }
    save_weights(control, folder / WEIGHTS)
    write_atomically(folder / METRICS, json.dumps(metrics, indent=1))


def _residuals(
    autoencoder: Autoencoder, activations: ActivationSequence, num_tokens: int
) -> Iterator[tuple[Tensor, Codes, Tensor]]:
    """Normalised activations, codes and residuals of the first tokens, by chunks."""
    for start in range(0, num_tokens, _CHUNK):
        x = activations.read(start, min(start + _CHUNK, num_tokens)).float()
        explained = autoencoder.explain(x)
        yield explained.target, explained.codes, explained.target - explained.decoded
