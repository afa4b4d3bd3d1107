"""The gradient of every objective in the spliced activation, against autograd through Hugging Face."""

from contextlib import ExitStack

import pytest
import torch

from random_lms import CONFIGS, hugging_face, random_lm
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import HOOKS, Site
from sae_nfm.settings.values import NotAllowed
from sae_nfm.training import through_model
from sae_nfm.training.objectives.behaviour import Seen
from sae_nfm.training.objectives.ce import CE
from sae_nfm.training.objectives.downstream import Downstream
from sae_nfm.training.objectives.kl import KL
from sae_nfm.training.objectives.kl_reconstruction import KLAndReconstruction
from sae_nfm.training.objectives.rank import Rank
from sae_nfm.training.objectives.top_n_kl import TopNKL
from sae_nfm.training.through_model import SiteBatch, ThroughModel

OBJECTIVES = {
    each.name: each for each in (KL(), KLAndReconstruction(), TopNKL(5), Rank(5), CE(), Downstream())
}
LAYER, BLOCKS, CONTEXT = 1, 5, 12


def layers_of(model):
    inner = getattr(model, "model", None) or getattr(model, "transformer", None) or model.gpt_neox
    return inner.h if hasattr(inner, "h") else inner.layers


def module_at(model, hook):
    """The module whose output is the activation, and whether it is the layer itself."""
    layer = layers_of(model)[LAYER]
    if hook == "resid_post":
        return layer
    if hook == "resid_pre":
        return layers_of(model)[LAYER - 1]
    attention = getattr(layer, "self_attn", None) or getattr(layer, "attention", None) or layer.attn
    return layer.mlp if hook == "mlp_out" else attention


def plain_run(model, tokens, hook, activation=None):
    """The activation, the logits and the streams of the layers behind, of one run by Hugging Face alone."""
    seen, streams = [], []

    def at_the_site(module, args, output):
        found = output[0] if isinstance(output, tuple) else output
        seen.append(found if activation is None else activation(found))
        return (seen[0], *output[1:]) if isinstance(output, tuple) else seen[0]

    def behind(module, args, output):
        streams.append(output[0] if isinstance(output, tuple) else output)

    first = LAYER if hook == "resid_pre" else LAYER + 1
    with ExitStack() as stack:
        stack.enter_context(module_at(model, hook).register_forward_hook(at_the_site))
        for layer in layers_of(model)[first:]:
            stack.enter_context(layer.register_forward_hook(behind))
        logits = model(tokens).logits
    return seen[0], logits, torch.stack(streams)


@pytest.fixture(scope="module")
def tokens():
    tokens = torch.randint(1, 4096, (BLOCKS, CONTEXT), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    tokens[2, 7] = 0  # another document begins
    return tokens


def by_autograd(model, tokens, hook, objective, noise):
    """The sum of an objective over scored tokens and its gradient, with everything written out."""
    scored = tokens != 0
    with torch.no_grad():
        x, clean_logits, clean_streams = plain_run(model, tokens, hook)
    leaf = (x[scored] + noise).requires_grad_()
    _, logits, streams = plain_run(
        model, tokens, hook, lambda found: found.detach().masked_scatter(scored.unsqueeze(-1), leaf)
    )
    targets = torch.full_like(tokens, -1)
    targets[:, :-1] = torch.where(scored[:, 1:], tokens[:, 1:], -1)
    clean, spliced = (
        Seen(clean_logits[scored], clean_streams[:, scored]),
        Seen(logits[scored], streams[:, scored]),
    )
    total = objective.per_token(clean, spliced, targets[scored]).sum()
    return total.item(), torch.autograd.grad(total, leaf)[0], leaf.detach()


def ours(lm, tokens, hook, objective, leaf, checkpointing=False, blocks=2):
    site = Site(LAYER, hook)
    prefix = lm.prefix(tokens, site)
    batch = SiteBatch(prefix.activation, prefix.resid, tokens, tokens != 0)
    passage = Passage(lm, site, objective.reads_streams, checkpointing)
    passage.check(prefix)
    leaf = leaf.to(prefix.activation.dtype, copy=True).requires_grad_()
    total = ThroughModel(passage, objective, blocks)(leaf, batch)
    (3 * total).backward()
    return total.item(), leaf.grad / 3


@pytest.fixture(scope="module")
def noise(tokens):
    number = int((tokens != 0).sum())
    return 0.3 * torch.randn(number, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_autograds(tokens, noise, name, architecture, hook):
    objective, lm = OBJECTIVES[name], random_lm(architecture)
    if hook in ("mlp_out", "attn_out") and architecture == "gemma2":
        pytest.skip("its hooks stand behind a norm of their own, which Hugging Face has no module for")
    total, gradient, leaf = by_autograd(hugging_face(architecture), tokens, hook, objective, noise)
    found, of_leaf = ours(lm, tokens, hook, objective, leaf)
    assert found == pytest.approx(total, rel=1e-9)
    assert (of_leaf - gradient).norm() <= 1e-8 * gradient.norm()
    assert gradient.norm() > 0
    found, of_leaf = ours(lm, tokens, hook, objective, leaf, checkpointing=True)
    assert (of_leaf - gradient).norm() <= 1e-8 * gradient.norm()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_in_float32_it_is_so_to_a_ten_thousandth(tokens, noise, architecture):
    total, gradient, leaf = by_autograd(hugging_face(architecture), tokens, "resid_post", KL(), noise)
    found, of_leaf = ours(random_lm(architecture, "float32"), tokens, "resid_post", KL(), leaf)
    assert found == pytest.approx(total, rel=1e-4)
    assert (of_leaf - gradient).norm() <= 1e-4 * gradient.norm()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_trainers_autocast_changes_nothing(tokens, noise, name):
    lm, objective = random_lm("gpt2", "float32"), OBJECTIVES[name]
    leaf = noise.float() + lm.prefix(tokens, Site(LAYER, "resid_post")).activation[tokens != 0]
    expected = ours(lm, tokens, "resid_post", objective, leaf)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(lm, tokens, "resid_post", objective, leaf)
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])


def test_pieces_and_blocks_at_once_change_nothing(tokens, noise, monkeypatch):
    lm, leaf = random_lm("llama"), torch.zeros_like(noise)
    expected = ours(lm, tokens, "resid_post", KL(), leaf, blocks=5)
    monkeypatch.setattr(through_model, "_ROWS", 3)
    monkeypatch.setattr(through_model, "_CPU_ELEMENTS", 1)
    total, gradient = ours(lm, tokens, "resid_post", KL(), leaf, blocks=1)
    assert total == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-9, atol=1e-12)


def test_without_gradients_the_value_is_the_same(tokens, noise):
    lm = random_lm("gpt2")
    site = Site(LAYER, "mlp_out")
    prefix = lm.prefix(tokens, site)
    through = ThroughModel(Passage(lm, site), KL(), 2)
    batch = SiteBatch(prefix.activation, prefix.resid, tokens, tokens != 0)
    with torch.no_grad():
        value = through(noise, batch)
    assert value.item() == ours(lm, tokens, "mlp_out", KL(), noise)[0]


def test_no_stream_is_behind_the_last_layer():
    with pytest.raises(NotAllowed, match=r"layer=2: allowed are layers below 2"):
        Passage(random_lm("llama"), Site(2, "resid_post"), streams=True)


def test_logits_that_are_made_otherwise_are_refused(tokens, monkeypatch):
    lm, site = random_lm("gemma2"), Site(LAYER, "resid_post")
    passage, prefix = Passage(lm, site), lm.prefix(tokens, site)
    passage.check(prefix)
    monkeypatch.setattr(Passage, "logits", lambda self, final: lm.unembed(final))  # without the cap
    with pytest.raises(NotAllowed, match="Gemma2ForCausalLM"):
        passage.check(prefix)
