"""Small dictionaries with random weights, built in one place."""

import torch
from torch import nn

from sae_nfm.models.autoencoder import Autoencoder, Explained, Parts
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine
from sae_nfm.models.saes.topk import TopKSAE

NFM_SETTINGS = {
    "order": 2,
    "d_embed": 8,
    "embed_std": 0.03,
    "linear": True,
    "bias": True,
    "interaction": True,
    "mlp": False,
    "dropout": 0.0,
    "fit": "together",
    "fit_k": None,
}


def make_nfm(d_sae, d_out, **settings):
    """An NFM with settings of `NFM_SETTINGS` but for those given."""
    return NeuralFactorizationMachine(d_sae, d_out, **{**NFM_SETTINGS, **settings})


def make_autoencoder(d_in, d_sae=64, k=4, nfm=True, seed=0):
    """Random weights, none of them 0, and a normaliser that shifts and scales; in eval mode."""
    torch.manual_seed(seed)
    normalizer = Normalizer(d_in)
    normalizer.mean.normal_(std=0.1)
    normalizer.scale.uniform_(0.5, 2)
    sae = TopKSAE(d_in, d_sae, k, "zero")
    for bias in (sae.b_enc, sae.b_dec):
        nn.init.normal_(bias, std=0.1)
    if not nfm:
        return Autoencoder(normalizer, sae).eval()
    head = make_nfm(d_sae, d_in)
    for parameter in (head.W_lin, head.b, head.head.W_out, head.head.b_out):
        nn.init.normal_(parameter, std=0.1)
    head.initialize_(sae.encode(torch.randn(256, d_in)))
    return Autoencoder(normalizer, sae, head).eval()


def make_parts(x, codes, sae, linear=None, interaction=None):
    """What an autoencoder without a plant returns."""
    units = Normalizer(x.shape[-1], "none").units(x)
    explained = Explained(codes, sae, x, None, units)
    return Parts(x, codes, sae, linear, interaction, None, explained)
