"""An SAE of every family with random weights, none of them 0, under every normaliser."""

import torch

from sae_nfm.interop.published import target_of
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.models.saes.gated import GatedSAE
from sae_nfm.models.saes.jumprelu import JumpReLUSAE
from sae_nfm.models.saes.matryoshka import MatryoshkaSAE
from sae_nfm.models.saes.relu import ReLUSAE
from sae_nfm.models.saes.topk import TopKSAE

D_IN, D_SAE = 10, 40
FAMILIES = {
    "relu": (ReLUSAE, {}),
    "gated": (GatedSAE, {}),
    "jumprelu": (JumpReLUSAE, {}),
    "topk": (TopKSAE, {"k": 5}),
    "batch_topk": (BatchTopKSAE, {"k": 5}),
    "matryoshka": (MatryoshkaSAE, {"k": 5, "prefixes": [0.25, 0.5]}),
}
AFFINE = ("none", "scalar", "per_dimension")
NORMALIZERS = (*AFFINE, "token_norm", "layer_norm")
ABOUT = {
    "lm": {"name": "gpt2"},
    "site": {"layer": 3, "hook": "resid_post"},
    "corpus": {"name": "stories"},
    "context": 64,
    "prepend_bos": True,
    "explained_variance": 0.9,
    "l0": 5.0,
    "kl": 0.125,
}


def activations(num_tokens=64):
    """Off the origin, with coordinates of different size."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_tokens, D_IN, generator=generator)
    return 4 * x * torch.linspace(0.5, 3, D_IN) + torch.linspace(-2, 5, D_IN)


@torch.no_grad()
def make_family(family, normalizer="scalar", subtracts_b_dec=True, seed=0):
    """An autoencoder and the node of its SAE."""
    torch.manual_seed(seed)
    cls, settings = FAMILIES[family]
    sae = cls(D_IN, D_SAE, **settings)
    for name, tensor in sae.state_dict().items():
        if name == "threshold":
            tensor.copy_(0.2 + 0.3 * torch.rand(tensor.shape))
        elif not name.startswith("W_"):
            tensor.normal_(std=0.3)
    if family not in ("topk", "batch_topk", "matryoshka"):
        sae.W_dec.mul_(0.5 + torch.rand(D_SAE, 1))
    sae.subtracts_b_dec = subtracts_b_dec
    units = Normalizer(D_IN, normalizer)
    if normalizer in ("scalar", "per_dimension"):
        units.fit(activations(512))
    return Autoencoder(units, sae).eval(), {"_target_": target_of(cls), "d_sae": D_SAE, **settings}
