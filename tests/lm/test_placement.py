"""Where a model's weights are: what is computed is on the device, and nothing else has to be.

The device `meta` holds no numbers: as the host it shows what is never touched, as the device what is brought.
"""

from types import SimpleNamespace

import pytest
import torch

from random_lms import LAYERS, folder_of
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.placement import Placement
from sae_nfm.lm.site import HOOKS, Site
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.store.company import ALONE, Together

TOKENS = torch.arange(24).view(2, 12)


def size(module):
    return sum(p.numel() * p.element_size() for p in module.parameters())


def bytes_on(device, module):
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.device.type == device)


@pytest.fixture
def lm():
    """Three layers, and an unembedding of its own."""
    return LanguageModel(str(folder_of("llama")), "float32")


@pytest.fixture
def tied():
    return LanguageModel(str(folder_of("gpt2")), "float32")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_reading_leaves_the_layers_behind_the_site_and_the_unembedding_on_the_host(lm, layer, hook):
    site, whole = Site(layer, hook), size(lm.model)
    expected = lm.prefix(TOKENS, site)
    behind = [*lm.layers[layer + (hook != "resid_pre") :], lm.unembed]
    waiting = sum(map(size, behind))
    lm._placement.host = torch.device("meta")
    lm.to("cpu", reading=site)
    assert bytes_on("meta", lm.model) == waiting
    assert bytes_on("cpu", lm.model) == whole - waiting < whole
    assert torch.equal(lm.prefix(TOKENS, site).activation, expected.activation)
    assert bytes_on("meta", lm.model) == waiting


def test_an_unembedding_that_is_tied_stays_with_the_embeddings(tied):
    tied._placement.host = torch.device("meta")
    tied.to("cpu", reading=Site(0, "resid_post"))
    assert tied.unembed.weight.device.type == "cpu"
    assert bytes_on("meta", tied.model) == sum(map(size, tied.layers[1:]))


def test_a_site_further_on_brings_the_layers_up_to_it(lm):
    placement = lm._placement
    lm.to("cpu")
    placement.put("meta", 1)
    assert bytes_on("meta", lm.model) == size(lm.model) - sum(map(size, [*lm.layers[1:], lm.unembed]))
    placement.need(2)
    assert bytes_on("cpu", lm.model) == size(lm.layers[2]) + size(lm.unembed)
    placement.need(1)
    assert bytes_on("cpu", lm.model) == size(lm.layers[2]) + size(lm.unembed)


@pytest.mark.parametrize("run", ["suffix", "splice", "logits"])
def test_running_the_model_to_its_end_brings_the_rest(lm, run):
    site = Site(0, "resid_post")
    activation = torch.zeros(2, 12, lm.d_model, device="meta")
    lm.to("meta", reading=site)
    assert bytes_on("cpu", lm.model) > 0
    with pytest.raises(RuntimeError, match="meta"):  # which transformers makes no attention mask on
        lm.logits(TOKENS) if run == "logits" else getattr(lm, run)(activation, activation, site)
    assert bytes_on("cpu", lm.model) == 0


def test_weights_come_back_as_they_were(lm):
    before = lm.logits(TOKENS)
    lm.to("cpu", reading=Site(0, "resid_post"))
    assert torch.equal(lm.logits(TOKENS), before)


def test_a_placement_begins_where_the_model_is(lm):
    assert Placement(lm.model, lm.layers, lm.unembed).device == lm.device == torch.device("cpu")


@pytest.mark.parametrize(("company", "waits"), [(ALONE, True), (Together(beside=None), False)])
def test_training_on_activations_leaves_the_rest_on_the_host(lm, company, waits):
    class Read(SiteActivations):
        _training = None

        def validation(self, seed):
            return SimpleNamespace(tokens_per_round=1)

    lm._placement.host = torch.device("meta")
    cfg = SimpleNamespace(validation_tokens=1, seed=0)
    read = Read(cfg, None, lm, Site(0, "resid_post"), None, None, SimpleNamespace(batch=1), company)
    read.module()
    assert bytes_on("meta", lm.model) == waits * sum(map(size, [*lm.layers[1:], lm.unembed]))
