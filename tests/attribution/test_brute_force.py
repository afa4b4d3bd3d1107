"""Attribution of pairs, triples and latents, against all of them written out, by plain autograd."""

import itertools

import numpy as np
import pytest
import torch

from sae_nfm.attribution.sums import TripleSums
from sae_nfm.attribution.task import taken_off
from small_attribution import BLOCKS, D_SAE, SITE, small_task

FORMS = [(2, False), (2, True), (3, False), (3, True), (4, False)]


def by_autograd(task, make, coefficients, nodes=8):
    """−∫ ∂ΣKL/∂θ dα of a reconstruction that is made of θ = α · `coefficients`, with plain autograd."""
    tokens = task.scored.blocks.all
    scored = tokens != 0
    with torch.no_grad():
        prefix = task.lm.prefix(tokens, SITE)
        log_p = task.lm.logits(tokens).log_softmax(-1)
    total = torch.zeros_like(coefficients)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        theta = (point * coefficients).requires_grad_()
        replaced = prefix.activation.masked_scatter(
            scored.unsqueeze(-1), make(prefix.activation[scored], theta, point)
        )
        log_q = task.lm.splice(replaced, prefix.resid, SITE).log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)[scored].sum()
        total -= weight * torch.autograd.grad(kl, theta)[0]
    return total


def written_out(task, x, theta, sets, alpha):
    """The reconstruction with θ_S Π f_i · Π v_i of every set S, by order."""
    parts = task.autoencoder(x)
    nfm, codes = task.autoencoder.nfm, parts.codes.dense(D_SAE)
    pooled, start = [], 0
    for order in range(2, nfm.order + 1):
        of = [chosen for chosen in sets if len(chosen) == order]
        f = torch.stack([codes[:, list(chosen)].prod(1) for chosen in of], dim=1)
        v = torch.stack([nfm.V[list(chosen)].prod(0) for chosen in of])
        pooled.append((theta[start : start + len(of)] * f) @ v)
        start += len(of)
    pooled = torch.cat(pooled, dim=1) * nfm.pool_scale
    back = parts.explained.units.inverse_difference
    constant = nfm.head(torch.zeros_like(pooled))
    return parts.sae + parts.linear + back(nfm.head(pooled) - (1 - alpha) * constant)


@pytest.mark.parametrize(("order", "mlp"), FORMS)
def test_pairs_are_what_the_gradient_of_each_alone_says(tmp_path, order, mlp):
    task, numbers = small_task(tmp_path, order, mlp)
    with torch.no_grad():
        found = task.attributed(numbers)
    task.sums.pairs.update(found)
    table = task.sums.pairs.compute()
    sets = [s for n in range(2, order + 1) for s in itertools.combinations(range(D_SAE), n)]
    expected = by_autograd(
        task, lambda x, theta, alpha: written_out(task, x, theta, sets, alpha),
        torch.ones(len(sets), dtype=torch.float64),
    )  # fmt: skip
    by_set = dict(zip(sets, expected.tolist(), strict=True))
    scale = float(expected.abs().max())
    for i, j, value in zip(table.i.tolist(), table.j.tolist(), table.taken_off.tolist(), strict=True):
        assert value == pytest.approx(by_set.pop((i, j)), rel=1e-8, abs=1e-8 * scale)
    assert all(by_set[s] == 0 for s in by_set if len(s) == 2)  # those that never occur
    totals = taken_off(found)
    for n, name in ((3, "triples"), (4, "quadruples")):
        if n <= order:
            of = sum(by_set[s] for s in by_set if len(s) == n)
            assert float(totals[name].sum()) == pytest.approx(of, rel=1e-8)


def test_triples_are_those_of_the_gradient_of_each_alone(tmp_path):
    task, numbers = small_task(tmp_path, 3)
    with torch.no_grad():
        found = task.attributed(numbers)
    triples = TripleSums(D_SAE)
    triples.update(found)
    latents, values, error = triples.compute()
    sets = [s for n in (2, 3) for s in itertools.combinations(range(D_SAE), n)]
    expected = by_autograd(
        task, lambda x, theta, alpha: written_out(task, x, theta, sets, alpha),
        torch.ones(len(sets), dtype=torch.float64),
    )  # fmt: skip
    by_set = dict(zip(sets, expected.tolist(), strict=True))
    assert error < 0.01 * expected.abs().max()
    largest = max((s for s in sets if len(s) == 3), key=lambda s: abs(by_set[s]))
    assert tuple(latents[0].tolist()) == largest
    found_values = dict(zip(map(tuple, latents.tolist()), values.tolist(), strict=True))
    for chosen, value in found_values.items():
        assert value == pytest.approx(by_set[chosen], abs=error)


@pytest.mark.parametrize("part", ["sae", "linear"])
def test_latents_are_what_the_gradient_of_each_alone_says(tmp_path, part):
    task, numbers = small_task(tmp_path)
    with torch.no_grad():
        found = task.attributed(numbers)
    nfm, sae = task.autoencoder.nfm, task.autoencoder.sae
    assert nfm is not None
    assert nfm.W_lin is not None
    assert task.sums.latents is not None
    task.sums.latents.update(found, sae.W_dec, nfm.W_lin)

    def make(x, theta, alpha):
        parts = task.autoencoder(x)
        codes, units = parts.codes.dense(D_SAE), parts.explained.units
        if part == "sae":
            return units.inverse((theta * codes) @ sae.W_dec + sae.b_dec)
        return parts.sae + units.inverse_difference((theta * codes) @ nfm.W_lin + alpha * nfm.b)

    expected = by_autograd(task, make, torch.ones(D_SAE, dtype=torch.float64))
    torch.testing.assert_close(task.sums.latents.compute()[part], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("order", "mlp"), FORMS)
def test_what_parts_take_off_adds_up_to_the_change_of_the_kl(tmp_path, order, mlp):
    task, numbers = small_task(tmp_path, order, mlp, nodes=24)
    with torch.no_grad():
        totals = {name: float(values.sum()) for name, values in taken_off(task.attributed(numbers)).items()}
    gain = totals["kl_sae_linear"] - totals["kl_sae_nfm"]
    names = ["constant", "pairs", "triples", "quadruples"][:order]
    assert sum(totals[name] for name in names) == pytest.approx(gain, rel=2e-2 if mlp else 1e-4)
    assert totals["linear"] == pytest.approx(totals["kl_sae"] - totals["kl_sae_linear"], rel=1e-5)
    assert totals["sae"] == pytest.approx(totals["kl_nothing"] - totals["kl_sae"], rel=1e-2)
    of_error = sum(totals[f"error_{name}"] for name in ("linear", "interactions", "rest"))
    assert of_error == pytest.approx(totals["kl_sae"], rel=1e-4)


def test_more_nodes_leave_less_unaccounted(tmp_path):
    gaps = []
    for nodes in (2, 4, 8, 16):
        task, numbers = small_task(tmp_path, 2, nodes=nodes)
        with torch.no_grad():
            totals = {name: float(v.sum()) for name, v in taken_off(task.attributed(numbers)).items()}
        gain = totals["kl_sae_linear"] - totals["kl_sae_nfm"]
        gaps.append(abs(totals["constant"] + totals["pairs"] - gain))
    assert gaps == sorted(gaps, reverse=True)


def test_documents_have_the_sums_of_their_tokens(tmp_path):
    task, numbers = small_task(tmp_path)
    with torch.no_grad():
        found = task.attributed(numbers)
    values = taken_off(found)
    task.sums.parts.update(found.documents, values)
    sums = task.sums.parts.compute()
    assert sums["tokens"].sum() == found.batch.scored.sum()
    for document in range(BLOCKS):
        of_document = float(values["pairs"][found.documents == document].sum())
        assert sums["pairs"][document] == pytest.approx(of_document)
