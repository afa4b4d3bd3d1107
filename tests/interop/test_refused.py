"""Files that are not what they should be: one message with file, field, found and expected; no code runs."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_read import FIXTURES, GEMMA, GEMMA_2, folder_of

from sae_nfm.interop.loading import load
from sae_nfm.settings.values import NotAllowed

SAE_LENS, DICTIONARY_LEARNING, SPARSIFY = "sae_lens/topk", "dictionary_learning/topk", "sparsify/expansion"
WEIGHTS = {
    SAE_LENS: "sae_weights.safetensors",
    GEMMA_2: "params.safetensors",
    DICTIONARY_LEARNING: "ae.pt",
    SPARSIFY: "sae.safetensors",
}
TENSORS = [
    *((SAE_LENS, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")),
    ("sae_lens/jumprelu", "threshold"),
    *(("sae_lens/gated", name) for name in ("b_gate", "b_mag", "r_mag")),
    ("sae_lens/batch_topk_checkpoint", "topk_threshold"),
    *((GEMMA_2, name) for name in ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")),
    *((DICTIONARY_LEARNING, name) for name in ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec")),
    ("dictionary_learning/batch_topk", "threshold"),
    ("dictionary_learning/jumprelu", "threshold"),
    *(("dictionary_learning/gated", name) for name in ("r_mag", "gate_bias", "mag_bias", "decoder_bias")),
    *(("dictionary_learning/matryoshka", name) for name in ("W_enc", "W_dec", "group_sizes")),
    *((SPARSIFY, name) for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")),
]


class Code:
    """A pickle that touches a file when it is opened as pickles are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def copied(tmp_path):
    """Copies a fixture to where it can be changed; its name stays the end of the path."""

    def copy(name):
        folder = tmp_path / name
        shutil.copytree(FIXTURES / name, folder)
        return folder / "layers.3" if name == SPARSIFY else folder

    return copy


def weights_in(folder):
    return next(path for path in folder.iterdir() if path.name in WEIGHTS.values())


def change_tensors(path, change):
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)
    else:
        state = load_file(path)
        change(state)
        save_file(state, path)


def change_settings(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder, **arguments):
    with pytest.raises(NotAllowed) as error:
        load(folder, **arguments)
    return str(error.value)


@pytest.mark.parametrize(("name", "tensor"), TENSORS)
def test_a_missing_tensor(copied, name, tensor):
    folder = copied(name)
    weights = weights_in(folder)
    change_tensors(weights, lambda state: state.pop(tensor))
    said = refusal(folder)
    assert said.startswith(f"{tensor.replace('w_', 'W_')}=nothing")
    assert str(weights) in said
    assert "shape [" in said


@pytest.mark.parametrize(("name", "tensor"), [case for case in TENSORS if case[1] != "group_sizes"])
def test_a_tensor_of_another_shape(copied, name, tensor):
    folder = copied(name)
    weights = weights_in(folder)

    def lengthen(state):
        shape = [size + 1 for size in state[tensor].shape] or [2]
        state[tensor] = torch.zeros(shape)

    change_tensors(weights, lengthen)
    said = refusal(folder)
    assert str(weights) in said
    assert "shape [" in said
    assert any(f"={shape}" in said for shape in ("[13", "[49", "[2]", "[12", "[48"))


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", b"\x80\x02N."])
@pytest.mark.parametrize("name", [*WEIGHTS, GEMMA])
def test_weights_that_cannot_be_read(copied, name, content):
    folder = copied(name)
    weights = folder / WEIGHTS.get(name, "params.npz")
    weights.write_bytes(content)
    said = refusal(folder)
    assert said.startswith(f"path={weights}")
    assert "\n" not in said


def test_a_truncated_file(copied):
    folder = copied(SAE_LENS)
    weights = weights_in(folder)
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(weights) in refusal(folder)


@pytest.mark.parametrize("where", ["beside", "nested"])
def test_code_in_a_pickle_never_runs(copied, tmp_path, where):
    folder, touched = copied(DICTIONARY_LEARNING), tmp_path / "touched"
    state = torch.load(folder / "ae.pt", weights_only=True)
    evil = {"optimizer": Code(touched)}
    torch.save(state | evil if where == "beside" else {"ae": state, **evil}, folder / "ae.pt")
    said = refusal(folder)
    assert said.startswith(f"path={folder / 'ae.pt'}")
    assert "runs code" in said
    assert not touched.exists()
    torch.load(folder / "ae.pt", weights_only=False)  # it would have
    assert touched.exists()


def test_code_in_an_archive_of_numpy_never_runs(copied, tmp_path):
    folder, touched = copied(GEMMA), tmp_path / "touched"
    arrays = dict(np.load(folder / "params.npz"))
    np.savez(folder / "params.npz", **arrays | {"b_dec": np.array(Code(touched), dtype=object)})
    assert f"path={folder / 'params.npz'}" in refusal(folder)
    assert not touched.exists()
    dict(np.load(folder / "params.npz", allow_pickle=True))  # it would have
    assert touched.exists()


@pytest.mark.parametrize(
    ("name", "file", "setting", "value", "allowed"),
    [
        (SAE_LENS, "cfg.json", "architecture", "transcoder", "standard, gated, topk, jumprelu"),
        (SAE_LENS, "cfg.json", "normalize_activations", "covariance_whitening", "constant_norm_rescale"),
        (SAE_LENS, "cfg.json", "hook_head_index", 3, "null"),
        (SAE_LENS, "cfg.json", "hook_name", "blocks.3.attn.hook_z", "attn_out"),
        (SAE_LENS, "cfg.json", "k", "many", "int"),
        (SAE_LENS, "cfg.json", "apply_b_dec_to_input", 1, "bool"),
        ("sae_lens/flat_standard", "cfg.json", "activation_fn_str", "tanh-relu", "relu, topk"),
        (GEMMA_2, "config.json", "architecture", "topk", "jump_relu"),
        (GEMMA_2, "config.json", "hf_hook_point_out", "model.layers.8.output", "model.layers.7.output"),
        (SPARSIFY, "cfg.json", "skip_connection", True, "not transcoders"),
        (SPARSIFY, "cfg.json", "transcode", True, "not transcoders"),
        (SPARSIFY, "cfg.json", "activation", "groupmax", "topk"),
        (SPARSIFY, "cfg.json", "d_in", None, "int"),
    ],
)
def test_a_setting_that_there_is_not_here(copied, name, file, setting, value, allowed):
    folder = copied(name)
    change_settings(folder / file, **{setting: value})
    said = refusal(folder)
    assert said.split("=")[0].split(" ")[0] == setting.removesuffix("_str")
    assert str(folder / file) in said
    assert allowed in said
    assert ("nothing" if value is None else str(value).lower()) in said.lower()


def test_a_class_that_there_is_not_here(copied):
    folder = copied(DICTIONARY_LEARNING)
    change_settings(folder / "config.json", trainer={"dict_class": "CrossCoder"})
    said = refusal(folder)
    assert "dict_class=CrossCoder" in said
    assert "MatryoshkaBatchTopKSAE" in said


def test_a_factor_that_the_config_denies(copied):
    folder = copied("sae_lens/flat_standard")
    change_tensors(weights_in(folder), lambda state: state.update(scaling_factor=torch.full((48,), 2.0)))
    said = refusal(folder)
    assert said.startswith("finetuning_scaling_factor=false")
    assert str(folder / "cfg.json") in said


def test_a_skip_connection_of_gemma_scope_2(copied):
    folder = copied(GEMMA_2)
    skip = torch.zeros(12, 12)
    change_tensors(weights_in(folder), lambda state: state.update(affine_skip_connection=skip))
    assert "affine_skip_connection" in refusal(folder)


def test_gemma_scope_of_attention_heads(tmp_path):
    folder = tmp_path / "gemma-scope-2b-pt-att" / "layer_3"
    shutil.copytree(FIXTURES / GEMMA, folder)
    assert "gemma-scope-2b-pt-att" in refusal(folder)


@pytest.mark.parametrize("name", [SAE_LENS, DICTIONARY_LEARNING, SPARSIFY])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_settings_that_cannot_be_read(copied, name, content):
    folder = copied(name)
    path = folder / ("config.json" if name == DICTIONARY_LEARNING else "cfg.json")
    path.unlink() if content is None else path.write_text(content)
    said = refusal(folder)
    assert said.startswith(f"path={path}")
    assert "JSON" in said


def test_a_folder_without_an_sae_says_what_was_looked_for(tmp_path):
    said = refusal(tmp_path)
    for name in (*WEIGHTS.values(), "params.npz", "weights.safetensors"):
        assert name in said
    for format in ("sae_lens", "gemma_scope", "dictionary_learning", "sparsify", "sae_nfm"):
        assert format in said


def test_a_folder_of_saes_names_some():
    said = refusal(FIXTURES / "sae_lens")
    assert "file=batch_topk, batch_topk_checkpoint, flat_standard, flat_topk, gated and 9 more" in said


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("nowhere/to/be/found", {}, "path=nowhere/to/be/found"),
        (FIXTURES, {"file": "sae_lens/nothing"}, "file=sae_lens/nothing"),
        (FIXTURES / SAE_LENS, {"format": "saelens"}, "did you mean sae_lens?"),
        (FIXTURES / SAE_LENS / "cfg.json", {"format": "sparsify"}, "sae.safetensors"),
        (FIXTURES / "inputs.npz", {}, "path="),
    ],
)
def test_a_place_that_there_is_not(path, arguments, said):
    assert said in refusal(path, **arguments)


def test_another_format_than_that_of_the_files():
    said = refusal(folder_of(SPARSIFY), format="sae_lens")
    assert "sae_lens: sae_weights.safetensors" in said
    assert "dictionary_learning" not in said


def test_a_file_of_any_name_where_the_format_is_given(copied):
    folder = copied(SAE_LENS)
    weights_in(folder).rename(folder / "mine.safetensors")
    assert load(folder, "mine.safetensors", format="sae_lens").family == "topk"
    assert "mine.safetensors" in refusal(folder, file="mine.safetensors")
