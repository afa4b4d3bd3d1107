"""What an artifact is kept under: every setting that changes weights changes it, and no other does."""

from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.recipes import residual, solved, tuned, workshop
from sae_nfm.recipes import sae as recipes_sae
from sae_nfm.recipes.course import Candidate
from sae_nfm.recipes.plant import FittedPlant
from sae_nfm.recipes.training import finished
from sae_nfm.store.ranks import Ranks
from sae_nfm.store.store import Store, fingerprint
from sae_nfm.tracking.trackers import Tracker

OF_BOTH = {
    "seed": 1, "lm.path": "{other}", "lm.dtype": "bfloat16", "corpus.path": "{text}",
    "corpus.separator": "the", "corpus.document": "heading",
    "activations": {
        "_target_": "sae_nfm.data.cache.ActivationCache", "dtype": "float32", "tokens": None, "shard_bytes": 9
    },
    "splits.validation": 0.3,
    "splits.test": 0.3, "max_tokens": 4000, "layer": 2, "hook": "mlp_out", "context": 16, "skip_positions": 1,
    "l0": 6, "normalizer": "none", "sae.d_sae": 128, "sae.k": 5, "sae.b_dec_init": "zero",
    "sae._target_": "test_fingerprints.OtherSAE", "sae.auxk": 3, "sae.auxk_coefficient": 0.5,
    "objectives.reconstruction._target_": "faults.RaisesOnRank0", "sae_optimizer.lr": 1e-3,
    "sae_optimizer.betas": [0.5, 0.9], "sae_optimizer.eps": 1e-6, "sae_optimizer.fused": False,
    "sae_optimizer._target_": "torch.optim.AdamW", "train_tokens": 4096, "batch_tokens": 512,
    "pool_tokens": 8192, "validation_tokens": 500, "warmup": 0.5, "decay": 0.5, "gradient_clip": 0,
    "sae.dead_after": 1, "validations": 2, "trainer.precision": "bf16-mixed", "matmul_precision": "high",
}  # fmt: skip
OF_THE_NFM = {
    "nfm.order": 3, "nfm.d_embed": 9, "nfm.embed_std": 0.1, "nfm.linear": False, "nfm.bias": False,
    "nfm.mlp": True, "nfm.dropout": 0.5, "nfm.fit": "together", "nfm.fit_k": 2,
    "nfm._target_": "test_fingerprints.OtherNFM", "nfm_optimizer.lr": 1e-2, "nfm_optimizer.betas": [0.5, 0.9],
    "nfm_optimizer.eps": 1e-6, "nfm_optimizer.fused": False, "nfm_optimizer._target_": "torch.optim.AdamW",
    "nfm_train_tokens": 4096, "linear_tokens": 4096,
    "plant": {
        "_target_": "sae_nfm.models.plant.Plant", "kind": "pairs", "num_tuples": 9, "strength": 1, "noise": 1
    },
}  # fmt: skip
OF_NEITHER = {
    "name": "other", "lm_batch": 3, "checkpoint_every": 7, "eval_tokens": 600, "trainer.accelerator": "gpu",
    "trainer.devices": 2, "trainer.strategy": "ddp", "trainer.num_nodes": 2, "logger": None,
    "artifacts": "x", "callbacks": {}, "profile": True, "verify": True, "plan": True, "optimize": "x",
    "evaluation.draws": 3,
}  # fmt: skip
OF_THE_TUNED = {
    "tuning_tokens": 4096, "nfm_objective": "ce", "objectives.kl._target_": "faults.RaisesOnRank0",
    "tuning_optimizer.lr": 1e-2, "tuning_optimizer.betas": [0.5, 0.9], "tuning_optimizer.eps": 1e-6,
    "tuning_optimizer.fused": False, "tuning_optimizer._target_": "torch.optim.AdamW", "tuning_decay": 0.9,
}  # fmt: skip
"""Of an NFM with `nfm_objective=kl`, and of nothing where it is fitted to the residual alone."""
ONE_BY_ONE = ("objective", "sae_objective", "stages", "sae_tuning_tokens", "stage.", "objectives.")
"""Which stages and objectives there are is seen in tests of their own."""
ELSEWHERE = (
    "evaluation.",
    "logger.",
    "trainer._",
    "lm._",
    "corpus._",
    "corpus.heading",
    "nfm.interaction",
    "attribution",
)
"""Read by the evaluation alone, or by Hydra, or only beside other settings; `nfm.interaction=false` leaves
nothing to train but the linear part, which is an artifact of its own."""


class OtherSAE(TopKSAE):
    """The same under another name."""


class OtherNFM(NeuralFactorizationMachine):
    """The same under another name."""


class Recorded(Store):
    """Notes what is asked for, and makes nothing but tokens."""

    def __init__(self, root):
        super().__init__(root, Ranks())
        self.fingerprints = {}

    def fetch(self, kind, spec, make, *, together=False, about=dict):
        self.fingerprints[kind] = fingerprint(spec)
        if kind == "tokens":
            return super().fetch(kind, spec, make, together=together)
        return self.root / kind / fingerprint(spec)


def leaves(node, path=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


@pytest.fixture(scope="module")
def default(corpus_file):
    config.register()
    tiny = ["corpus=text", f"corpus.path={corpus_file}", "context=32", "splits={validation: 0.2, test: 0.2}"]
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose(
            "study",
            overrides=[
                *tiny,
                "sae.d_sae=64",
                "l0=4",
                "nfm.d_embed=8",
                "batch_tokens=1024",
                "corpus.heading='[a-m]'",
            ],
        )


@pytest.fixture(scope="module")
def artifacts_of(lm, default, corpus_file, tmp_path_factory):
    """A function of changed settings: what makes dictionaries under them, but for the making."""
    folder = tmp_path_factory.mktemp("store")
    places = {"{text}": folder / "text.txt", "{other}": folder / "model"}
    places["{text}"].write_text(corpus_file.read_text() + "\n\none more document")
    places["{other}"].mkdir()
    (places["{other}"] / "config.json").write_text("{}")

    class SameModel:
        """The embedded model, under the path and type of the settings."""

        d_model, tokenizer, signature = lm.d_model, lm.tokenizer, type(lm).signature

        def __init__(self, cfg, company):
            self.path, self.dtype, self.quantization = cfg.lm.path, cfg.lm.dtype, None
            self.device = torch.device("cpu")

        def to(self, device):
            return self

    def of(changed):
        cfg = default.copy()
        for key, value in changed.items():
            given = str(places.get(value, value)) if type(value) is str else value
            OmegaConf.update(cfg, key, given, force_add=True)
        return config.workshop(cfg, Tracker(folder, {}, {}), SimpleNamespace(device="cpu"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "language_model", SameModel)
        patch.setattr(config, "Store", lambda root, ranks, verify, company: Recorded(folder))
        patch.setattr(recipes_sae, "load_weights", lambda module, path: None)
        patch.setattr(solved, "load_weights", lambda module, path: None)
        patch.setattr(residual, "load_weights", lambda module, path: None)
        patch.setattr(tuned, "load_weights", lambda module, path: None)
        patch.setattr(FittedPlant, "load", lambda recipe, folder: recipe.unfitted)
        patch.setattr(workshop, "read_metrics", lambda folder: {"residual_explained": 1, "best_step": 1})
        yield of


@pytest.fixture(scope="module")
def fingerprints(artifacts_of):
    """A function of changed settings: the fingerprints of what they ask for, by kind."""

    def of(changed):
        made = artifacts_of(changed)
        finished(made.own, made)
        return made.store.fingerprints

    return of


@pytest.mark.parametrize("setting", [*OF_BOTH, *OF_THE_NFM, *OF_NEITHER])
def test_what_changes_weights_changes_the_fingerprint_and_nothing_else_does(fingerprints, setting):
    changed = OF_BOTH | OF_THE_NFM | OF_NEITHER
    before, after = fingerprints({}), fingerprints({setting: changed[setting]})
    assert (after["sae"] != before["sae"]) is (setting in OF_BOTH)
    assert (after["nfm"] != before["nfm"]) is (setting in OF_BOTH or setting in OF_THE_NFM)


@pytest.mark.parametrize("setting", [*OF_BOTH, *OF_THE_NFM, *OF_THE_TUNED, *OF_NEITHER])
def test_what_changes_what_is_tuned_changes_its_fingerprint(fingerprints, setting):
    by_kl = {"nfm_objective": "kl"}
    changed = OF_BOTH | OF_THE_NFM | OF_THE_TUNED | OF_NEITHER
    before, after = fingerprints(by_kl), fingerprints(by_kl | {setting: changed[setting]})
    assert (after["nfm"] != before["nfm"]) is (setting not in OF_NEITHER)


@pytest.mark.parametrize("kept", [None, 2000])
def test_what_is_kept_is_permuted_and_so_its_size_is_in_the_fingerprint(fingerprints, kept):
    """A stage reads the first tokens of a permutation of all, be they kept for another stage."""
    cached = {
        "activations": OF_BOTH["activations"] | {"tokens": kept},
        "train_tokens": 2048,
        "linear_tokens": 9,
    }
    one, other = (fingerprints(cached | {"nfm_train_tokens": tokens}) for tokens in (1024, 3072))
    assert (one["sae"] != other["sae"]) is (kept is None)
    assert (one["linear"] != other["linear"]) is (kept is None)


def test_a_file_that_a_model_reads_is_in_its_fingerprint_by_what_it_holds(fingerprints, default, tmp_path):
    def of(name, *pairs):
        i, j = zip(*pairs, strict=True)
        columns = {"i": i, "j": j, "taken_off_choosing": [1.0] * len(pairs)}
        pq.write_table(pa.table(columns), tmp_path / name)
        target = {"_target_": "sae_nfm.models.residuals.without_pairs.NFMWithoutPairs"}
        nfm = OmegaConf.to_container(default.nfm) | target | {"pairs": str(tmp_path / name), "share": 1}
        return fingerprints({"nfm": nfm})["nfm"]

    first = of("pairs.parquet", (0, 1), (2, 3))
    assert of("elsewhere.parquet", (0, 1), (2, 3)) == first
    assert of("pairs.parquet", (0, 1), (2, 4)) != first


def test_what_another_seed_makes_has_curves_under_a_name_of_its_own(artifacts_of):
    made, names = artifacts_of({}), []
    made.run = replace(made.run, logger=lambda stage, *of: names.append(stage))
    made.reseeded(3).run.logger("nfm", None, 1)
    assert names == ["nfm_seed_3"]


def test_the_wider_sae_has_as_many_parameters_as_it_is_given(artifacts_of):
    for size in (40_000, 100_000):
        wide = finished(Candidate("wide", frozenset({"sae"}), wider=size), artifacts_of({}))
        found = sum(parameter.numel() for parameter in wide.autoencoder.sae.parameters())
        assert found == pytest.approx(size, rel=0.01)


def test_no_setting_is_forgotten(default):
    """A new one has to be put where it belongs, in the lists above."""
    known = {*OF_BOTH, *OF_THE_NFM, *OF_THE_TUNED, *OF_NEITHER}
    settings = leaves(OmegaConf.to_container(default, resolve=True))
    left = [
        s
        for s in settings
        if s not in known and not s.startswith((*ELSEWHERE, *ONE_BY_ONE)) and not s.endswith("._partial_")
    ]
    assert left == []
