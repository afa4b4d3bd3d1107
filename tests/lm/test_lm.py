"""The cut through the embedded LM: prefix and suffix against the full run, at every hook of every layer."""

import re

import pytest
import torch
from safetensors.torch import load_file

from changed_lms import broken, changed_lm
from sae_nfm.lm.model import DTYPES, LanguageModel
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import HOOKS, Site
from sae_nfm.settings.schema import ASSETS

DOCS_LM = str(ASSETS / "docs_lm")
LAYERS = (0, 3, 5)
FOURTH_MLP, RANDOM = "transformer.h.4.mlp.c_proj", "and would be random: "
NAN_IN_LAYER_1 = broken("transformer.h.1.mlp.c_fc.bias", torch.nan)
SITES = [Site(layer, hook) for layer in LAYERS for hook in HOOKS]


def name_of(site):
    return f"{site.layer}.{site.hook}"


@pytest.fixture(scope="module")
def tokens(splits):
    return splits.test.tokens(range(4))


@pytest.fixture(scope="module")
def full(lm, tokens):
    return lm.logits(tokens)


def spliced_by_a_hook(lm, tokens, site, replacement):
    """The full run with a forward hook that puts `replacement` at the site: what the suffix must equal."""
    hook = (site.name, lambda value, hook: replacement)
    with torch.no_grad(), lm.bridge.hooks(fwd_hooks=[hook]):
        return lm.bridge(tokens)


@pytest.mark.parametrize("site", SITES, ids=name_of)
def test_the_prefix_reads_what_passes_the_hook_in_a_full_run(lm, tokens, site):
    with torch.no_grad():
        _, cache = lm.bridge.run_with_cache(tokens, names_filter=[site.name])
    activation = lm.prefix(tokens, site).activation
    assert activation.shape == (*tokens.shape, lm.d_model)
    torch.testing.assert_close(activation, cache[site.name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("site", SITES, ids=name_of)
def test_prefix_and_suffix_together_are_the_full_run(lm, tokens, full, site):
    prefix = lm.prefix(tokens, site)
    torch.testing.assert_close(lm.suffix(prefix.activation, prefix.resid, site), full, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("site", SITES, ids=name_of)
def test_a_spliced_activation_does_what_a_hook_in_the_full_run_does(lm, tokens, full, site):
    prefix = lm.prefix(tokens, site)
    replacement = prefix.activation + torch.randn(
        prefix.activation.shape, generator=torch.Generator().manual_seed(0)
    )
    expected = spliced_by_a_hook(lm, tokens, site, replacement)
    got = lm.suffix(replacement, prefix.resid, site)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-5)
    assert (got - full).abs().max() > 0.1


@pytest.mark.parametrize(
    "site", [Site(3, "resid_post"), Site(3, "mlp_out"), Site(5, "resid_post")], ids=name_of
)
def test_rows_of_a_suffix_do_not_see_each_other(lm, tokens, site):
    prefix = lm.prefix(tokens, site)
    rows = torch.cat([prefix.activation, torch.zeros_like(prefix.activation)])
    both = lm.suffix(rows, prefix.resid.repeat(2, 1, 1), site)
    alone = lm.suffix(prefix.activation, prefix.resid, site)
    torch.testing.assert_close(both[: len(tokens)], alone, rtol=1e-5, atol=2e-5)
    assert (both[len(tokens) :] - alone).abs().max() > 0.1


@pytest.mark.parametrize("site", [Site(3, "resid_post"), Site(3, "mlp_out")], ids=name_of)
def test_a_trainers_autocast_leaves_the_model_as_it_is(lm, tokens, site):
    """What it is trained through for is what the evaluation measures."""
    passage = Passage(lm, site)
    with torch.no_grad():
        expected = lm.prefix(tokens, site)
        logits = lm.suffix(expected.activation, expected.resid, site)
        by_passage = passage.logits(passage(*expected).final)
        with torch.autocast("cpu", torch.bfloat16):
            prefix = lm.prefix(tokens, site)
            assert torch.equal(prefix.activation, expected.activation)
            assert torch.equal(lm.suffix(*expected, site), logits)
            assert torch.equal(passage.logits(passage(*expected).final), by_passage)


def test_a_splice_leaves_earlier_positions_and_later_runs_alone(lm, tokens, full):
    site = Site(2, "resid_post")
    prefix = lm.prefix(tokens, site)
    replacement = prefix.activation.clone()
    replacement[:, 5:] = 0.0
    spliced = lm.suffix(replacement, prefix.resid, site)
    torch.testing.assert_close(spliced[:, :5], full[:, :5], rtol=1e-5, atol=2e-5)
    assert torch.equal(lm.logits(tokens), full)


def test_batch_size_changes_nothing(lm, tokens, full):
    one_by_one = torch.cat([lm.logits(row.unsqueeze(0)) for row in tokens])
    torch.testing.assert_close(one_by_one, full, rtol=1e-5, atol=2e-5)
    site = Site(4, "attn_out")
    together = lm.prefix(tokens, site).activation
    alone = torch.cat([lm.prefix(row.unsqueeze(0), site).activation for row in tokens])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_logits_are_those_of_the_hugging_face_model(lm, tokens, full):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(DOCS_LM, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(full, model(tokens).logits, rtol=1e-5, atol=2e-5)


def test_the_model_knows_text_of_its_kind(lm):
    """Better than a uniform guess by far: the weights are loaded, and in the right places."""
    text = "Returns a new array of the given shape and type, filled with zeros."
    ids = torch.tensor([[lm.tokenizer.bos_token_id, *lm.tokenizer.encode(text, add_special_tokens=False)]])
    loss = torch.nn.functional.cross_entropy(lm.logits(ids)[0, :-1], ids[0, 1:])
    assert loss < 4 < torch.log(torch.tensor(lm.d_vocab))


def test_nothing_has_a_gradient_and_everything_is_in_eval_mode(lm, tokens):
    for each in (lm.model, lm.bridge):
        assert not any(parameter.requires_grad for parameter in each.parameters())
        assert not any(module.training for module in each.modules())
    site = Site(1, "resid_post")
    prefix = lm.prefix(tokens, site)
    assert not prefix.activation.requires_grad
    assert not lm.suffix(prefix.activation.requires_grad_(), prefix.resid, site).requires_grad
    assert not lm.logits(tokens).requires_grad


def test_sizes_are_those_of_the_model(lm):
    assert (lm.n_layers, lm.d_model, lm.d_vocab, lm.n_ctx) == (6, 128, 4096, 128)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_another_dtype_is_the_activations_dtype(dtype, tokens, full):
    lm = LanguageModel(DOCS_LM, dtype)
    site = Site(2, "mlp_out")
    prefix = lm.prefix(tokens, site)
    assert prefix.activation.dtype == prefix.resid.dtype == DTYPES[dtype]
    logits = lm.suffix(prefix.activation.float(), prefix.resid, site)
    assert logits.dtype == DTYPES[dtype]
    close = {"bfloat16": 0.5, "float64": 1e-4}[dtype]
    torch.testing.assert_close(logits.float(), full, rtol=0, atol=close)


@pytest.mark.parametrize(
    ("site", "context", "words"),
    [
        (Site(6, "resid_post"), 16, ["layer=6", "0 to 5"]),
        (Site(-1, "resid_post"), 16, ["layer=-1", "0 to 5"]),
        (Site(0, "resid_mid"), 16, ["hook=resid_mid", *HOOKS]),
        (Site(0, "resid_post"), 129, ["context=129", "2 to 128"]),
        (Site(0, "resid_post"), 1, ["context=1", "2 to 128"]),
    ],
)
def test_a_site_or_context_that_the_model_lacks_is_named_with_what_it_has(lm, site, context, words):
    with pytest.raises(ValueError, match="=") as error:
        lm.check(site, context)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("site", SITES, ids=name_of)
def test_prefix_and_suffix_compute_their_own_layers_only(lm, tokens, site):
    layers, computed = list(lm.layers), []
    handles = [
        layer.register_forward_hook(lambda *_, number=number: computed.append(number))
        for number, layer in enumerate(layers)
    ]
    start = site.layer + (site.hook == "resid_post" and site.layer < len(layers) - 1)
    prefix = lm.prefix(tokens, site)
    assert computed == list(range(site.layer + (site.hook != "resid_pre")))
    computed.clear()
    lm.suffix(prefix.activation, prefix.resid, site)
    for handle in handles:
        handle.remove()
    assert computed == list(range(start, len(layers)))
    assert all(now is before for now, before in zip(lm.layers, layers, strict=True))


@pytest.mark.parametrize("site", SITES, ids=name_of)
def test_the_sites_that_the_model_has_pass(lm, site):
    assert lm.check(site, 128) is None
    assert site.name in lm.bridge.hook_dict


def test_an_unknown_dtype_is_named_with_what_is_allowed():
    with pytest.raises(ValueError, match="dtype=int8: allowed are float32, float64, bfloat16, float16"):
        LanguageModel(DOCS_LM, "int8")


def test_a_folder_that_is_not_there_or_holds_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder") as error:
        LanguageModel(str(tmp_path / "nowhere"), "float32")
    assert f"path={tmp_path / 'nowhere'}" in str(error.value)
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        LanguageModel(str(tmp_path), "float32")
    assert f"path={tmp_path}: cannot" in str(error.value)


def test_a_folder_below_the_home_is_found_and_is_what_it_is_elsewhere(lm, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").symlink_to(ASSETS)
    of_home = LanguageModel("~/models/docs_lm", "float32")
    assert of_home.signature() == lm.signature()
    assert of_home.n_layers == lm.n_layers
    for nowhere in ("~/nowhere", "~nobody-of-that-name/models"):
        with pytest.raises(ValueError, match="no such folder"):
            LanguageModel(nowhere, "float32")


def test_another_path_stays_as_it_is_written(monkeypatch):
    monkeypatch.chdir(ASSETS)
    assert LanguageModel("./docs_lm", "float32").path == "./docs_lm"


def test_the_signature_follows_the_content_of_the_folder_and_the_dtype(lm, tmp_path):
    copies = [tmp_path / "a", tmp_path / "b"]
    signatures = []
    for copy in copies:
        copy.mkdir()
        for file in (ASSETS / "docs_lm").iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    for path in (DOCS_LM, *map(str, copies)):
        moved = LanguageModel.__new__(LanguageModel)
        moved.path, moved.dtype, moved.quantization = path, "float32", None
        signatures.append(moved.signature())
    assert signatures[0] == signatures[1] == signatures[2] == lm.signature()

    weights = copies[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert moved.signature() != lm.signature()
    moved.path, moved.dtype = DOCS_LM, "bfloat16"
    assert moved.signature() != lm.signature()
    quantised = []
    for moved.quantization in (None, "8bit", "4bit"):
        quantised.append(moved.signature())
    assert len(set(map(str, quantised))) == 3


def test_the_embedded_models_weights_are_found_though_some_are_tied(lm):
    assert "lm_head.weight" not in load_file(ASSETS / "docs_lm" / "model.safetensors")
    assert lm.model.config.tie_word_embeddings


def without(weights):
    del weights[f"{FOURTH_MLP}.weight"], weights[f"{FOURTH_MLP}.bias"]


def reshaped(weights):
    weights[f"{FOURTH_MLP}.weight"] = weights[f"{FOURTH_MLP}.weight"][:-1].contiguous()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without, f"2 of its weights are missing, {RANDOM}{FOURTH_MLP}.bias, {FOURTH_MLP}.weight;"),
        (reshaped, f"1 of its weights are missing, {RANDOM}{FOURTH_MLP}.weight (of another shape);"),
    ],
    ids=["missing", "reshaped"],
)
def test_a_folder_that_lacks_weights_is_refused(tmp_path, change, named):
    folder = changed_lm(tmp_path, change)
    with pytest.raises(ValueError, match=re.escape(f"path={folder}: {named}")):
        LanguageModel(str(folder), "float32")


def test_a_file_of_weights_that_is_cut_off_is_named(tmp_path):
    folder = changed_lm(tmp_path, lambda weights: None)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=re.escape(f"path={folder}: cannot be loaded")):
        LanguageModel(str(folder), "float32")


@pytest.mark.parametrize("hook", HOOKS)
def test_activations_that_are_not_finite_are_refused_by_what_makes_them_so(tmp_path, tokens, hook):
    lm = LanguageModel(str(changed_lm(tmp_path, NAN_IN_LAYER_1)), "float32")
    lm.prefix(tokens, Site(0, hook))
    named = f"lm.path={lm.path}: its activations at blocks.2.hook_{hook} hold NaN or infinity"
    why = "because its weight transformer.h.1.mlp.c_fc.bias is not finite"
    with pytest.raises(ValueError, match=re.escape(f"{named}, {why}")):
        lm.prefix(tokens, Site(2, hook))


def test_weights_that_are_finite_leave_the_dtype_to_blame(lm):
    with pytest.raises(ValueError, match=r"its logits hold NaN or infinity, because lm.dtype=float32"):
        lm.check_finite(torch.tensor([0.0, torch.inf]), "its logits")
