"""Copies of the embedded LM with something wrong in their weights."""

import shutil

from safetensors.torch import load_file, save_file

from sae_nfm.settings.schema import ASSETS


def changed_lm(folder, change):
    """A copy below `folder` whose weights `change` was given, to change them in place."""
    copy = shutil.copytree(ASSETS / "docs_lm", folder / "lm")
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def broken(name, value):
    """A change that sets the first number of a weight."""

    def change(weights):
        weights[name].flatten()[0] = value

    return change
