"""A model in two parts, one of them on disk, against the whole one; and what is refused."""

import importlib.util

import pytest
import torch

from random_lms import LAYERS, folder_of
from sae_nfm.lm.loading import Loading
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import HOOKS, Site
from sae_nfm.settings.schema import ASSETS
from tiny_studies import Suite

TOKENS = torch.arange(24).view(2, 12)
DOCS_LM = str(ASSETS / "docs_lm")
HALF_ON_DISK = ("device_map=auto", "max_memory={cpu: 3MB}", "offload_folder=offloaded")
PARTS = {
    "gpt2": ("transformer.h", ["transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"]),
    "llama": ("model.layers", ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]),
}


def map_of(architecture):
    """The first layer in memory, the others on disk."""
    layers, others = PARTS[architecture]
    numbered = {f"{layers}.{n}": "disk" if n else "cpu" for n in range(LAYERS)}
    return {**dict.fromkeys(others, "cpu"), **numbered}


@pytest.fixture(scope="module", params=PARTS)
def both(request, tmp_path_factory):
    """A model as a whole, and in two parts."""
    folder, offloaded = str(folder_of(request.param)), str(tmp_path_factory.mktemp("offloaded"))
    parts = LanguageModel(folder, "float64", device_map=map_of(request.param), offload_folder=offloaded)
    return LanguageModel(folder, "float64"), parts


def test_the_layers_on_disk_are_in_memory_only_while_they_compute(both):
    whole, parts = both
    parts.to("cpu").logits(TOKENS)
    on_disk = [all(p.is_meta for p in layer.parameters()) for layer in parts.layers]
    assert on_disk == [False, *[True] * (LAYERS - 1)]
    assert not any(p.is_meta for p in whole.model.parameters())


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_prefix_and_suffix_are_those_of_the_whole_model(both, layer, hook):
    whole, parts = both
    site = Site(layer, hook)
    expected, found = whole.prefix(TOKENS, site), parts.prefix(TOKENS, site)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    spliced = expected.activation.roll(1, dims=1)
    logits = whole.suffix(spliced, expected.resid, site)
    torch.testing.assert_close(parts.suffix(spliced, found.resid, site), logits, rtol=1e-12, atol=1e-12)
    assert (logits - whole.logits(TOKENS)).abs().max() > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("hook", ["resid_post", "mlp_out"])
def test_gradients_pass_layers_on_disk(both, hook, checkpointing):
    gradients, site = [], Site(0, hook)
    for lm in both:
        passage = Passage(lm, site, streams=True, checkpointing=checkpointing)
        prefix = lm.prefix(TOKENS, site)
        passage.check(prefix)
        x = prefix.activation.clone().requires_grad_()
        reached = passage(x, prefix.resid)
        loss = passage.logits(reached.final).log_softmax(-1)[..., 0].sum() + reached.streams.pow(2).mean()
        gradients.extend(torch.autograd.grad(loss, x))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)
    assert gradients[0].abs().max() > 1e-3


def test_where_a_model_is_does_not_change_what_it_is(both):
    assert both[0].signature() == both[1].signature()


def test_a_study_of_a_model_in_two_parts_finds_what_it_finds_of_the_whole(corpus_file, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = []
    for folder, settings in ((tmp_path / "a", ()), (tmp_path / "b", HALF_ON_DISK)):
        suite, how = Suite(folder, corpus_file), [f"lm.{setting}" for setting in settings]
        tuned = ("nfm_objective=kl", "tuning_tokens=2048", "hydra.run.dir=study")
        status, printed = suite.run("lm=local", f"lm.path={DOCS_LM}", *tuned, *how)
        assert status == 0, printed
        assert ("they were offloaded to the" in printed) == bool(how)
        found.append(suite.result("study"))
    whole, parts = found
    fingerprints = [{name: each["fingerprint"] for name, each in of["artifacts"].items()} for of in found]
    assert fingerprints[0] == fingerprints[1]
    for name, condition in whole["conditions"].items():
        kl = parts["conditions"][name]["kl"]
        for figure in ("mean", "std", "median", "max", "ci95"):
            assert kl[figure] == pytest.approx(condition["kl"][figure], rel=1e-6), (name, figure)
    assert whole["conditions"]["sae_nfm"]["kl"]["mean"] > 0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_memory": {"cpu": "1GB"}}, r"max_memory=.*allowed are null, where device_map=null"),
        ({"offload_folder": "x"}, "offload_folder=x: allowed are null, where device_map=null"),
        ({"quantization": "2bit"}, "quantization=2bit: allowed are null, 8bit, 4bit"),
        ({"device_map": "gpu"}, "device_map=gpu: allowed are"),
    ],
)
def test_settings_that_contradict_each_other_are_named(given, named):
    with pytest.raises(ValueError, match=named):
        LanguageModel(DOCS_LM, "float32", **given)


def test_one_process_alone_spreads_its_model(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="device_map=auto: every one of 2 processes"):
        LanguageModel(DOCS_LM, "float32", device_map="auto")


def test_fewer_bits_without_their_package_are_refused(monkeypatch):
    monkeypatch.setattr("sae_nfm.lm.loading.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quantization=4bit: bitsandbytes is not installed.*\[quantized\]"):
        LanguageModel(DOCS_LM, "float32", quantization="4bit")


def test_devices_are_numbers_again_where_the_model_is_loaded():
    loading = Loading("auto", {"0": "20GiB", "1": 5, "cpu": "60GiB"}, None, None)
    assert loading.settings(torch.float32)["max_memory"] == {0: "20GiB", 1: 5, "cpu": "60GiB"}


def test_a_device_that_there_is_not_is_refused_by_name():
    with pytest.raises(ValueError, match=r"device_map=\{'': 'nowhere'\}: .*device.*; allowed are null"):
        LanguageModel(DOCS_LM, "float32", device_map={"": "nowhere"})


def test_fewer_bits_that_a_device_cannot_do_are_refused_by_name(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no such operation\non this device")

    monkeypatch.setattr("sae_nfm.lm.loading.find_spec", lambda name: object())
    monkeypatch.setattr("sae_nfm.lm.loading.Loading._quantization_config", lambda loading, dtype: None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    with pytest.raises(ValueError, match="quantization=8bit: no such operation; allowed are null, or"):
        LanguageModel(DOCS_LM, "float32", quantization="8bit")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra `quantized`")
@pytest.mark.parametrize(("bits", "close"), [("8bit", 0.01), ("4bit", 0.1)])
def test_fewer_bits_move_the_next_token_a_little(bits, close):
    whole, small = LanguageModel(DOCS_LM, "float32"), LanguageModel(DOCS_LM, "float32", quantization=bits)
    site = Site(2, "resid_post")
    x = small.prefix(TOKENS, site).activation.requires_grad_()
    expected, found = whole.logits(TOKENS).log_softmax(-1), small.splice(x, x, site).log_softmax(-1)
    kl = (expected.exp() * (expected - found)).sum(-1).mean()
    assert 0 < kl < close
    assert torch.autograd.grad(kl, x)[0].abs().max() > 0
    assert small.signature() != whole.signature()
    layer = small.layers[0]
    assert sum(p.nbytes for p in layer.parameters()) < 0.4 * sum(
        p.nbytes for p in whole.layers[0].parameters()
    )
