"""Explained variance on held-out documents at equal L0: every SAE family, ours against its peers.

`python benchmarks/explained_variance.py FOLDER [OVERRIDE…]` takes the overrides of a study, such as `lm=local
lm.path=DIR corpus=text corpus.path=FILE`. Ours is trained as a study trains it, with the family's default
settings. The peers train in an environment of their own, each by its own trainer, on a file of the batches
that our study is dealt, in their order, under a search of variants, learning rates and sparsity
(`searching.py`). The folder keeps activations and runs: given again, only what is missing is made.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_l0 import report
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from quality import look
from timing import arguments, parsed
from torch import Tensor

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.data.activations import ActivationStream, PooledBatches
from sae_nfm.models.codes import Codes
from sae_nfm.recipes.workshop import Workshop
from sae_nfm.store.store import fingerprint

HERE = Path(__file__).parent
SETTINGS = ["hook=resid_post", "nfm=none", "trainer=cpu", "logger=none"]
FAMILIES = ("topk", "batch_topk", "matryoshka", "jumprelu", "gated", "relu")
LIBRARIES = ("sae-lens", "dictionary-learning")


def compose_study(overrides: list[str]) -> DictConfig:
    """The configuration of a study."""
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("study", [*SETTINGS, *overrides])


def workshop(cfg: DictConfig, folder: Path) -> Workshop:
    """Where a study makes what it needs."""
    cfg = config.check(cfg)
    return config.workshop(cfg, config.tracker(cfg, folder, {}), config.ranks(cfg))


def write_activations(cfg: DictConfig, num_held_out: int, folder: Path) -> None:
    """`train.npy`, the batches that a study is dealt, and `held_out.npy`, from its test documents."""
    activations = workshop(cfg, folder).activations
    sizes = {name: cfg[name] for name in ("train_tokens", "batch_tokens", "pool_tokens", "lm_batch")}
    held = fingerprint(activations.spec() | sizes | {"held_out": num_held_out})
    mark = folder / "fingerprint"
    if mark.exists():
        if mark.read_text() != held:
            raise SystemExit(f"{folder} holds activations of other settings; another folder is needed")
        return
    lm, site, splits = activations.lm, activations.site, activations.splits
    batches = PooledBatches(
        activations.stream(), activations.pool, step=0, rank=0, world_size=1, seed=cfg.seed
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
    mark.write_text(held)


def ours(cfg: DictConfig, held_out: Tensor, folder: Path) -> dict[str, Any]:
    """Train as a study does, or take what a study has trained, and look at the held-out activations."""
    autoencoder = workshop(cfg, folder).sae().autoencoder.eval()
    sae, normalizer = autoencoder.sae, autoencoder.normalizer

    def decode(f: Tensor) -> Tensor:
        codes = Codes(*f.topk(max(1, int((f > 0).sum(1).max())), dim=1))
        return normalizer.units(f[:, : sae.d_in]).inverse(sae.decode(codes))

    return look(lambda x: sae.encode(normalizer(x)).dense(sae.d_sae), decode, held_out, sae.d_sae, True)


def theirs(python: Path, cfg: DictConfig, args: Any) -> None:
    """Search in the peers' environment; runs end up in the folder's `peers.jsonl`."""
    sizes = {"d-sae": args.d_sae, "l0": args.l0, "batch": cfg.batch_tokens, "threads": args.threads}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    chosen = ["--families", *args.families, "--libraries", *args.libraries, "--seeds", *map(str, args.seeds)]
    script = [str(python), str(HERE / "explained_variance_peers.py"), str(args.folder), *options, *chosen]
    subprocess.run(script, check=True)


def main() -> None:
    """Train all and write the table."""
    parser = arguments(__doc__, layer=2, d_sae=1024, l0=16, train_tokens=2_000_000, held_out=65536)
    parser.add_argument("--peers", type=Path, default=HERE / ".venv/bin/python", help="Python with the peers")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("folder", type=Path, help="where activations and runs are kept")
    parser.add_argument("overrides", nargs="*", help="of the study, such as lm=local lm.path=DIR")
    args = parsed(parser)
    args.folder.mkdir(parents=True, exist_ok=True)
    common = [f"layer={args.layer}", f"train_tokens={args.train_tokens}", *args.overrides]
    cfg = compose_study(common)
    write_activations(cfg, args.held_out, args.folder)
    theirs(args.peers, cfg, args)
    found, held_out = {}, torch.from_numpy(np.load(args.folder / "held_out.npy"))
    for family in args.families:
        of_family = [f"sae={family}", f"sae.d_sae={args.d_sae}", f"l0={args.l0}"]
        studies = [compose_study([*common, *of_family, f"seed={seed}"]) for seed in args.seeds]
        found[family] = [ours(study, held_out, args.folder) for study in studies]
    lines = (args.folder / "peers.jsonl").read_text().splitlines()
    report(cfg, args, found, [json.loads(line) for line in lines])


if __name__ == "__main__":
    main()
