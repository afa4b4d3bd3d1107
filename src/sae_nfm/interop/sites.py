"""Where in the model other tools say that an SAE belongs."""

import re

from sae_nfm.settings.values import NotAllowed

HOOKS = ("resid_pre", "resid_post", "mlp_out", "attn_out")
_HOOK = f"(?P<hook>{'|'.join(HOOKS)})"
_BLOCK = r"(?:.*\.)?(?:layers|h|blocks)[._](?P<layer>\d+)"
_NAMES = {
    # TransformerLens, and its bridge
    rf"blocks\.(?P<layer>\d+)\.hook_{_HOOK}": None,
    rf"{_BLOCK}\.hook_in": "resid_pre",
    rf"{_BLOCK}\.hook_out": "resid_post",
    rf"{_BLOCK}\.mlp\.hook_out": "mlp_out",
    rf"{_BLOCK}\.attn\.hook_out": "attn_out",
    # modules of Hugging Face models, whose output is meant
    _BLOCK: "resid_post",
    rf"{_BLOCK}\.mlp": "mlp_out",
    rf"{_BLOCK}\.(?:self_attn|attention|attn)": "attn_out",
    # dictionary_learning
    rf"{_HOOK}_layer_?(?P<layer>\d+)": None,
}


def site_of(name: str | None, field: str) -> tuple[int | None, str | None]:
    """The layer and the hook that a name of another tool's means; None of None.

    Args:
        name: as in `blocks.3.hook_resid_post`, `layers.3`, `model.layers.3.mlp`, `resid_post_layer_3`.
        field: where it stands, for the error.

    Raises:
        NotAllowed: it is none of the places where activations are read here.
    """
    if name is None:
        return None, None
    for pattern, hook in _NAMES.items():
        if found := re.fullmatch(pattern, name.removesuffix(".output")):
            return int(found["layer"]), hook or found["hook"]
    raise NotAllowed(field, name, f"SAEs of {', '.join(HOOKS)} of a layer", "activations are not read there")
