"""Layers of a model that are computed by other operations than `transformers` writes out."""

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sae_nfm.lm.layers import fuse_rms_norms


class OnePlusWeight(LlamaRMSNorm):
    """Named like the others, and another thing."""

    def forward(self, hidden_states):
        return super().forward(hidden_states) * (1 + self.weight) / self.weight


class OnePlusWeightRMSNorm(OnePlusWeight):
    pass


def model_of(norm):
    model = nn.Sequential(norm)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    return model


def test_a_norm_is_the_same_with_its_own_weight():
    model = model_of(LlamaRMSNorm(32, eps=1e-5))
    x, weight = 3 * torch.randn(5, 32), model[0].weight
    expected = model(x)
    fuse_rms_norms(model)
    assert isinstance(model[0], nn.RMSNorm)
    assert model[0].weight is weight
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == ["0.weight"]


@pytest.mark.parametrize(
    "norm", [Gemma2RMSNorm(32), OnePlusWeightRMSNorm(32), nn.LayerNorm(32), LlamaRMSNorm(32).double()]
)
def test_what_is_another_thing_stays(norm):
    model = model_of(norm)
    fuse_rms_norms(model)
    assert model[0] is norm
