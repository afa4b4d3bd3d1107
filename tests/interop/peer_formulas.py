"""What other tools make of their own files, by their formulas, in NumPy and float64."""

import json

import numpy as np
import torch
from safetensors.numpy import load_file


def wide(path):
    return {name: array.astype(np.float64) for name, array in load_file(path).items()}


def relu(x):
    return np.maximum(x, 0)


def top(pre, k):
    """All but the k largest of every row at 0."""
    kept = np.argsort(-pre, axis=1)[:, :k]
    out = np.zeros_like(pre)
    np.put_along_axis(out, kept, np.take_along_axis(pre, kept, 1), 1)
    return relu(out)


def sae_lens(folder, x):
    """Latents and reconstruction of `SAE.load_from_disk(folder)`."""
    config = json.loads((folder / "cfg.json").read_text())
    w = {
        name: array.astype(np.float64)
        for name, array in load_file(folder / "sae_weights.safetensors").items()
    }
    shift, scale, back = 0, 1, 1
    if config["normalize_activations"] == "constant_norm_rescale":
        scale = back = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
    elif config["normalize_activations"] == "layer_norm":
        shift, back = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
        scale = back + 1e-5
    c = ((x - shift) / scale - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"]
    if config["architecture"] == "gated":
        latents = (c + w["b_gate"] > 0) * relu(np.exp(w["r_mag"]) * c + w["b_mag"])
    else:
        pre = c + w["b_enc"]
        latents = {
            "standard": lambda: relu(pre),
            "topk": lambda: top(pre, config["k"]),
            "jumprelu": lambda: relu(pre) * (pre > w["threshold"]),
        }[config["architecture"]]()
    return latents, (latents @ w["W_dec"] + w["b_dec"]) * back + shift


def dictionary_learning(folder, x):
    """Latents and reconstruction of `load_dictionary(folder)`."""
    kind = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    state = torch.load(folder / "ae.pt", weights_only=True)
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    b_dec = next(w[name] for name in ("b_dec", "bias", "decoder_bias") if name in w)
    W_enc = w["W_enc"] if "W_enc" in w else w["encoder.weight"].T
    W_dec = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
    c = (x if kind == "JumpReluAutoEncoder" else x - b_dec) @ W_enc
    if kind == "GatedAutoEncoder":
        latents = (c + w["gate_bias"] > 0) * relu(np.exp(w["r_mag"]) * c + w["mag_bias"])
        return latents, latents @ W_dec + b_dec
    pre = c + (w["b_enc"] if "b_enc" in w else w["encoder.bias"])
    latents = {
        "AutoEncoder": lambda: relu(pre),
        "JumpReluAutoEncoder": lambda: relu(pre * (pre > w["threshold"])),
        "AutoEncoderTopK": lambda: top(relu(pre), int(w["k"])),
        "BatchTopKSAE": lambda: relu(pre) * (relu(pre) > w["threshold"]),
        "MatryoshkaBatchTopKSAE": lambda: relu(pre) * (relu(pre) > w["threshold"]),
    }[kind]()
    return latents, latents @ W_dec + b_dec


def sparsify(folder, x):
    """Latents and reconstruction of `Sae.load_from_disk(folder)`."""
    config = json.loads((folder / "cfg.json").read_text())
    w = wide(folder / "sae.safetensors")
    assert w["encoder.weight"].shape == (config["num_latents"], config["d_in"])
    pre = relu((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    latents = top(pre, config["k"])
    return latents, latents @ w["W_dec"] + w["b_dec"]
