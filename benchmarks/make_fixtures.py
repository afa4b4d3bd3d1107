"""Small SAEs as other tools train and write them, with what the tools make of the same activations.

`make -C benchmarks fixtures` runs it in the peers' environment and writes `tests/interop/fixtures/`: a folder
for each tool, version and family, `inputs.npz` with the activations, and `expected.npz` with every tool's own
`decode(encode(x))` by folder. All are trained for some hundred steps on sums of a few random directions, so
that none is degenerate. Gemma Scope's files, which no tool writes, and the flat configs of SAELens before 6
are laid out here; SAELens says what they give.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig, JumpReLUTrainingSAE
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAEConfig as JumpReLUConfig
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE as MatryoshkaTrainingSAE
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAEConfig as MatryoshkaConfig
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import save_file
from sparsify import Sae, SaeConfig
from torch import Tensor

D_IN, D_SAE, K = 12, 48, 4
STEPS, BATCH, NUM_INPUTS = 300, 128, 32
METADATA = {"model_name": "gpt2-small", "hook_name": "blocks.3.hook_resid_post", "context_size": 64}
Reference = Callable[[Tensor], Tensor]

_generator = torch.Generator().manual_seed(0)
_DIRECTIONS = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=_generator), dim=1)
_MEAN = torch.randn(D_IN, generator=_generator)


def activations(num_tokens: int) -> Tensor:
    """Sums of about three of 48 directions, off their mean, at a norm of about 10."""
    active = torch.rand(num_tokens, D_SAE, generator=_generator) < 3 / D_SAE
    strength = 1 + torch.rand(num_tokens, D_SAE, generator=_generator)
    noise = torch.randn(num_tokens, D_IN, generator=_generator)
    return 3 * (active * strength @ _DIRECTIONS + _MEAN + 0.02 * noise)


def batches() -> Iterator[Tensor]:
    """Training batches, without an end."""
    while True:
        yield activations(BATCH)


def trained_by_sae_lens(cls: Any, config: Any, **settings: Any) -> Any:
    """A training SAE after a run of SAELens's trainer."""
    torch.manual_seed(0)
    sae = cls(config(d_in=D_IN, d_sae=D_SAE, **settings))
    for name, value in METADATA.items():
        sae.cfg.metadata[name] = value
    run = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=3e-3,
        lr_end=3e-3,
        n_batches_for_norm_estimate=16,
    )
    trainer = SAETrainer(run, sae, batches())
    trainer.fit()
    return sae


def sae_lens_loads(folder: Path) -> Reference:
    """What SAELens makes of a folder."""
    sae = SAE.load_from_disk(folder)
    return lambda x: sae.decode(sae.encode(x))


def inference(cls: Any, config: Any, **settings: Any) -> Callable[[Path], Reference]:
    """Trained by SAELens and written for inference, as its runner does."""

    def make(folder: Path) -> Reference:
        trained_by_sae_lens(cls, config, **settings).save_inference_model(folder)
        return sae_lens_loads(folder)

    return make


def topk_unfolded(folder: Path) -> Reference:
    """As of a checkpoint: with rescale_acts_by_decoder_norm and decoder rows of any norm."""
    trained_by_sae_lens(TopKTrainingSAE, TopKTrainingSAEConfig, k=K).save_model(folder)
    return sae_lens_loads(folder)


def batch_topk_checkpoint(folder: Path) -> Reference:
    """As of a checkpoint, which inference reads by its threshold."""
    sae = trained_by_sae_lens(BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, k=K)
    sae.save_model(folder)
    sae.save_inference_model(folder / "inference")
    reference = sae_lens_loads(folder / "inference")
    shutil.rmtree(folder / "inference")
    return reference


def flat(make: Callable[[Path], Reference], **said: Any) -> Callable[[Path], Reference]:
    """The same with the config of a version before 6."""

    def make_flat(folder: Path) -> Reference:
        make(folder)
        config = json.loads((folder / "cfg.json").read_text())
        old = {name: config[name] for name in ("d_in", "d_sae", "dtype", "apply_b_dec_to_input")}
        old |= {"hook_point": METADATA["hook_name"], "hook_layer": 3, "model_name": METADATA["model_name"]}
        old |= {
            "prepend_bos": True,
            "context_size": 64,
            "normalize_activations": False,
            "device": "cpu",
        } | said
        (folder / "cfg.json").write_text(json.dumps(old))
        return sae_lens_loads(folder)

    return make_flat


def gemma_scope(folder: Path) -> Reference:
    """A JumpReLU SAE in Gemma Scope's layout: b_dec is not subtracted."""
    sae = trained_by_sae_lens(
        JumpReLUTrainingSAE, JumpReLUConfig, apply_b_dec_to_input=False, l0_coefficient=0.3
    )
    state = {name: tensor.detach() for name, tensor in sae.state_dict().items()}
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    loaded = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False))
    loaded.load_state_dict(state)
    return lambda x: loaded.decode(loaded.encode(x))


def gemma_scope_2(folder: Path) -> Reference:
    """The same as Gemma Scope 2 has it."""
    reference = gemma_scope(folder)
    with np.load(folder / "params.npz") as arrays:
        state = {name.replace("W_", "w_"): torch.from_numpy(arrays[name]) for name in arrays.files}
    save_file(state, folder / "params.safetensors")
    (folder / "params.npz").unlink()
    config = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "l0": 20}
    (folder / "config.json").write_text(json.dumps(config | {"hf_hook_point_in": "model.layers.7.output"}))
    return reference


def dictionary_learning(trainer: Any, **settings: Any) -> Callable[[Path], Reference]:
    """Trained and written by dictionary_learning's `trainSAE`, which folds its normaliser in."""

    def make(folder: Path) -> Reference:
        common = {"steps": STEPS, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 3, "lm_name": "gpt2"}
        common |= {"trainer": trainer, "warmup_steps": 10, "device": "cpu", "seed": 0, "lr": 3e-3}
        common |= {"submodule_name": "resid_post_layer_3"} | settings
        data = _Batches()
        trainSAE(data, [common], steps=STEPS, save_dir=str(folder), normalize_activations=True, device="cpu")
        for path in (folder / "trainer_0").iterdir():
            path.rename(folder / path.name)
        (folder / "trainer_0").rmdir()
        dictionary, _ = load_dictionary(str(folder), "cpu")
        return lambda x: dictionary.decode(dictionary.encode(x))

    return make


class _Batches:
    """What dictionary_learning takes for an activation buffer."""

    config: ClassVar = {"ctx_len": 64, "d_submodule": D_IN}

    def __iter__(self) -> Iterator[Tensor]:
        return batches()


def sparsify(**settings: Any) -> Callable[[Path], Reference]:
    """Trained by a loop over sparsify's own forward, and written by it."""

    def make(folder: Path) -> Reference:
        torch.manual_seed(0)
        sae = Sae(D_IN, SaeConfig(k=K, **settings))
        sae.b_dec.data = activations(1024).mean(0)
        optimizer = torch.optim.Adam(sae.parameters(), lr=3e-3)
        for x in (batch for batch, _ in zip(batches(), range(STEPS), strict=False)):
            sae.set_decoder_norm_to_unit_norm()
            sae(x).fvu.backward()
            sae.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
        hookpoint = folder / "layers.3"
        sae.save_to_disk(hookpoint)
        (folder / "config.json").write_text(json.dumps({"model": "gpt2", "ctx_len": 64}))
        loaded = Sae.load_from_disk(hookpoint)
        return lambda x: loaded(x).sae_out

    return make


MADE: dict[str, Callable[[Path], Reference]] = {
    "sae_lens/standard": inference(StandardTrainingSAE, StandardTrainingSAEConfig, l1_coefficient=0.3),
    "sae_lens/gated": inference(GatedTrainingSAE, GatedTrainingSAEConfig, l1_coefficient=0.3),
    "sae_lens/jumprelu": inference(JumpReLUTrainingSAE, JumpReLUConfig, l0_coefficient=0.3),
    "sae_lens/topk": inference(TopKTrainingSAE, TopKTrainingSAEConfig, k=K),
    "sae_lens/topk_unfolded": topk_unfolded,
    "sae_lens/topk_constant_norm": inference(
        TopKTrainingSAE, TopKTrainingSAEConfig, k=K, normalize_activations="constant_norm_rescale"
    ),
    "sae_lens/standard_layer_norm": inference(
        StandardTrainingSAE, StandardTrainingSAEConfig, l1_coefficient=0.3, normalize_activations="layer_norm"
    ),
    "sae_lens/gated_without_b_dec": inference(
        GatedTrainingSAE, GatedTrainingSAEConfig, l1_coefficient=0.3, apply_b_dec_to_input=False
    ),
    "sae_lens/jumprelu_scaled": inference(
        JumpReLUTrainingSAE,
        JumpReLUConfig,
        l0_coefficient=0.1,
        normalize_activations="expected_average_only_in",
    ),
    "sae_lens/batch_topk": inference(BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, k=K),
    "sae_lens/batch_topk_checkpoint": batch_topk_checkpoint,
    "sae_lens/matryoshka": inference(
        MatryoshkaTrainingSAE, MatryoshkaConfig, k=K, matryoshka_widths=[12, 24, 48]
    ),
    "sae_lens/flat_standard": flat(
        inference(StandardTrainingSAE, StandardTrainingSAEConfig, l1_coefficient=0.3),
        activation_fn_str="relu",
    ),
    "sae_lens/flat_topk": flat(
        inference(TopKTrainingSAE, TopKTrainingSAEConfig, k=K),
        activation_fn_str="topk",
        activation_fn_kwargs={"k": K},
    ),
    "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": gemma_scope,
    "gemma-scope-2-1b-pt/resid_post/layer_7_width_16k_l0_medium": gemma_scope_2,
    "dictionary_learning/standard": dictionary_learning(StandardTrainer, sparsity_warmup_steps=10),
    "dictionary_learning/april": dictionary_learning(StandardTrainerAprilUpdate, sparsity_warmup_steps=10),
    "dictionary_learning/gated": dictionary_learning(GatedSAETrainer, sparsity_warmup_steps=10),
    "dictionary_learning/jumprelu": dictionary_learning(
        JumpReluTrainer, sparsity_warmup_steps=10, target_l0=K, bandwidth=0.03
    ),
    "dictionary_learning/topk": dictionary_learning(TopKTrainer, k=K, threshold_start_step=10),
    "dictionary_learning/batch_topk": dictionary_learning(
        BatchTopKTrainer, k=K, threshold_start_step=10, threshold_beta=0.9
    ),
    "dictionary_learning/matryoshka": dictionary_learning(
        MatryoshkaBatchTopKTrainer,
        k=K,
        threshold_start_step=10,
        threshold_beta=0.9,
        group_fractions=[0.25, 0.25, 0.5],
    ),
    "sparsify/expansion": sparsify(expansion_factor=4),
    "sparsify/num_latents": sparsify(num_latents=40, normalize_decoder=False),
}


def main() -> None:
    """Write all fixtures, and say how good each SAE is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("tests/interop/fixtures"))
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    torch.set_num_threads(1)
    x = activations(NUM_INPUTS)
    expected = {}
    for name, make in MADE.items():
        folder = out / name
        folder.mkdir(parents=True)
        reference = make(folder)
        with torch.no_grad():
            made = reference(x)
        assert made.isfinite().all()
        expected[name] = made.numpy()
        explained = 1 - (x - made).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
        print(f"{name:60} explained variance {explained:.4f}", flush=True)
    np.savez(out / "inputs.npz", x=x.numpy())
    np.savez(out / "expected.npz", **expected)
    print(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) // 1000, "kB")


if __name__ == "__main__":
    main()
