"""Explained variance on held-out documents: our SAE against SAELens's, trained on the same activations.

`python benchmarks/explained_variance.py [OVERRIDE…]` takes the overrides of a study, such as `lm=local
lm.path=DIR corpus=text corpus.path=FILE`. Ours is trained as a study trains it. SAELens trains in the peers'
environment with its own trainer, on a file of the batches that our study is dealt, in their order, under
every setting of a small grid; its best counts.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from timing import Bar, Report, arguments, parsed

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.artifacts import Artifacts
from sae_nfm.data.activations import ActivationStream, PooledBatches
from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.store.store import Store

HERE = Path(__file__).parent
SETTINGS = ["hook=resid_post", "nfm=none", "trainer=cpu", "logger=none"]


def compose_study(overrides: list[str]) -> DictConfig:
    """The configuration of a study."""
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("study", [*SETTINGS, *overrides])


def write_activations(activations: SiteActivations, cfg: DictConfig, num_held_out: int, folder: Path) -> None:
    """`train.npy`, the batches that a study is dealt, and `held_out.npy`, from its test documents."""
    lm, site, splits = activations.lm, activations.site, activations.splits
    batches = PooledBatches(
        activations.stream(), config.pool(cfg), step=0, rank=0, world_size=1, seed=cfg.seed
    )
    num_steps = cfg.train_tokens // cfg.batch_tokens
    shape = (num_steps * cfg.batch_tokens, lm.d_model)
    array = np.lib.format.open_memmap(folder / "train.npy", mode="w+", dtype=np.float32, shape=shape)
    for step, batch in zip(range(num_steps), batches, strict=False):
        array[step * cfg.batch_tokens : (step + 1) * cfg.batch_tokens] = batch.float().numpy()
    array.flush()
    held_out = ActivationStream(lm, site, splits.test, cfg.lm_batch, 0)
    num_held_out = min(num_held_out, held_out.tokens_per_round)
    np.save(folder / "held_out.npy", held_out.read(0, num_held_out).float().numpy())


def ours(artifacts: Artifacts, folder: Path) -> dict[str, float]:
    """Train as a study does, or take what a study has trained, and look at the held-out activations."""
    autoencoder = artifacts.sae().eval()
    quality = DictionaryQuality(autoencoder.sae.d_in, autoencoder.sae.d_sae)
    with torch.no_grad():
        for x in torch.from_numpy(np.load(folder / "held_out.npy")).split(8192):
            quality.update(autoencoder(x))
    return {name: value for name, value in quality.compute().items() if value is not None}


def theirs(python: Path, cfg: DictConfig, folder: Path) -> list[dict[str, Any]]:
    """Every setting of the grid, in the peers' environment."""
    settings = {"d-sae": cfg.sae.d_sae, "k": cfg.sae.k, "batch": cfg.batch_tokens}
    settings["threads"] = torch.get_num_threads()
    options = [f"--{name}={value}" for name, value in settings.items()]
    script = [str(python), str(HERE / "explained_variance_sae_lens.py"), str(folder), *options]
    subprocess.run(script, check=True)
    return json.loads((folder / "sae_lens.json").read_text())


def main() -> None:
    """Train both and write the table."""
    parser = arguments(__doc__, layer=2, d_sae=1024, k=16, train_tokens=2_000_000, held_out=65536)
    parser.add_argument("--peers", type=Path, default=HERE / ".venv/bin/python", help="Python with sae-lens")
    parser.add_argument("overrides", nargs="*", help="of the study, such as lm=local lm.path=DIR")
    args = parsed(parser)
    sizes = {"layer": args.layer, "sae.d_sae": args.d_sae, "sae.k": args.k, "train_tokens": args.train_tokens}
    cfg = compose_study([*(f"{key}={value}" for key, value in sizes.items()), *args.overrides])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        activations = SiteActivations(cfg, Store(cfg.artifacts), "cpu")
        write_activations(activations, cfg, args.held_out, folder)
        artifacts = Artifacts(cfg, activations, config.run(cfg, config.tracker(cfg, folder, {})))
        found = ours(artifacts, folder)
        grid = theirs(args.peers, cfg, folder)
        num_held_out = len(np.load(folder / "held_out.npy", mmap_mode="r"))
    report(cfg, num_held_out, found, grid)


def report(cfg: DictConfig, num_held_out: int, found: dict[str, float], grid: list[dict[str, Any]]) -> None:
    """Every setting, and ours against the best of them."""
    ahead = found["explained_variance"] - max(run["explained_variance"] for run in grid)
    columns = ("explained_variance", "dead_fraction", "l0")
    lm, sae = Path(cfg.lm.path).name, cfg.sae
    Report(
        name=f"explained_variance_{lm}",
        title=f"Held-out explained variance: {lm}, layer {cfg.layer}, d_sae {sae.d_sae}, k {sae.k}, "
        f"{cfg.train_tokens} tokens",
        columns=("", "explained variance", "dead fraction", "L0"),
        rows=[
            [f"sae_nfm, lr {cfg.sae_optimizer.lr}", *map(found.get, columns)],
            *([f"sae-lens, {run['setting']}", *map(run.get, columns)] for run in grid),
        ],
        bars=[Bar("explained variance, ahead of the best sae-lens by", ahead, 0.0)],
        notes=[
            f"Trained in batches of {cfg.batch_tokens}; 1 − Σ‖x − x̂‖² / Σ‖x − mean‖² over {num_held_out} "
            "tokens of documents that neither was trained on; dead are latents that fire on none of these.",
        ],
        figures={"ours": found, "sae_lens": grid},
    ).publish()


if __name__ == "__main__":
    main()
