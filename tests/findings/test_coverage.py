"""How often the intervals of a result hold the truth, in simulated evaluations whose truth is known."""

import numpy as np
import pytest
import torch

from sae_nfm.baselines.matched import Eps
from sae_nfm.evaluation.condition import conditions
from sae_nfm.findings.entries import entries
from sae_nfm.findings.result import findings
from sae_nfm.findings.statistics import clustered_t, unpaired_t
from sae_nfm.findings.summary import Summary
from sae_nfm.measures.sums import EvaluationSums, TokenValues, measures

SIMULATIONS = 1000
MEAN_KL = {
    "clean": 0.0, "sae": 1.0, "sae_linear": 0.95, "sae_nfm": 0.7, "refit": 0.94, "codes_bound": 0.4,
    "eps(sae)": 0.5, "eps(sae_nfm)": 0.4,
}  # fmt: skip
MEASURES = measures(0)


ROLES = {
    "sae": "sae", "sae_linear": "linear", "sae_nfm": "nfm", "refit": "refit", "codes_bound": "codes_bound",
}  # fmt: skip
CONDITIONS = conditions(ROLES, {"eps": Eps()}, ["sae", "sae_nfm"], 1)


def summary_of(kl, mse, documents):
    """The summary of an evaluation that scores every position: values are [condition, block, pos]."""
    by_measure = torch.zeros(len(MEASURES), *kl.shape, dtype=torch.float64)
    for name, values in (("kl", kl), ("ce", kl), ("mse", mse)):
        by_measure[MEASURES.index(name)] = torch.from_numpy(values)
    scored = torch.ones(kl.shape[1:], dtype=torch.bool)
    has_target = scored.clone()
    has_target[:, -1] = False
    sums = EvaluationSums(MEASURES, len(kl), kl.shape[2], int(documents.max()) + 1)
    draws = [torch.from_numpy(values).unsqueeze(0) for values in kl]
    sums.update(TokenValues(by_measure, draws, scored, has_target, torch.from_numpy(documents)))
    return Summary(CONDITIONS[: len(kl)], sums.compute(), 0)


def headlines(found):
    """Every interval of a result that a headline is made of."""
    marginal, pathology = found["marginal_interaction"], found["pathology"]
    return {
        "KL of the SAE": {"value": found["conditions"]["sae"]["kl"]["mean"]}
        | found["conditions"]["sae"]["kl"],
        "reduction": found["reduction"],
        "MSE reduction": found["mse_reduction"],
        **{f"interaction, {name}": marginal[name] for name in ("absolute", "share", "share_over_refit")},
        **{f"share of codes_bound, {name}": found["share_of_codes_bound"][name] for name in ("kl", "mse")},
        **{f"pathology of {name}": pathology[name]["eps"] for name in ("sae", "sae_nfm")},
        "change of pathology": found["pathology_change"]["eps"],
    }


def in_blocks(tokens, width=8):
    """What lies along the last axis in blocks; what fills none is left out."""
    blocks = tokens.shape[-1] // width
    return tokens[..., : blocks * width].reshape(*tokens.shape[:-1], blocks, width)


def simulated(seed, num_documents=200):
    """Documents of lognormal lengths, each with an effect on all conditions and one on every one."""
    generator = np.random.default_rng((3, seed))
    lengths = np.maximum(2, generator.lognormal(4, 0.8, num_documents)).astype(int)
    documents = np.repeat(np.arange(num_documents), lengths)
    shared = generator.normal(0, 0.5, num_documents)

    def values():
        own = generator.normal(0, 0.2, (len(MEAN_KL), num_documents))
        noise = generator.normal(0, 0.7, (len(MEAN_KL), len(documents)))
        level = np.array(list(MEAN_KL.values()))[:, None]
        # e^z has mean e^(variance / 2): the same for all conditions, so that it leaves every ratio alone
        return in_blocks(level * np.exp((shared + own)[:, documents] + noise))

    return values(), values(), in_blocks(documents)


@pytest.fixture(scope="module")
def truth():
    """The headlines of the means themselves."""
    mean = np.array(list(MEAN_KL.values()))[:, None, None] * np.exp((0.5**2 + 0.2**2 + 0.7**2) / 2)
    same = np.repeat(np.repeat(mean, 2, axis=1), 2, axis=2)
    return {
        name: entry.get("value")
        for name, entry in headlines(findings(summary_of(same, same, np.array([[0, 0], [1, 1]])))).items()
    }


@pytest.mark.slow
def test_every_headlines_interval_holds_the_truth_in_93_to_97_of_100_studies(truth):
    holds = []
    for seed in range(SIMULATIONS):
        found = headlines(findings(summary_of(*simulated(seed))))
        holds.append([found[name]["ci95"][0] <= truth[name] <= found[name]["ci95"][1] for name in truth])
    coverage = dict(zip(truth, np.mean(holds, axis=0), strict=True))
    print(
        "\n"
        + "\n".join(
            f"{name}: truth {truth[name]:.4f}, coverage {held:.3f}" for name, held in coverage.items()
        )
    )
    assert all(0.93 <= held <= 0.97 for held in coverage.values()), coverage


@pytest.mark.slow
@pytest.mark.parametrize(("num_documents", "blocks_each"), [(100, 20), (400, 3)])
def test_intervals_by_position_hold_the_truth_where_documents_have_many_blocks(num_documents, blocks_each):
    """A fifth of the variance lies between documents; without clustering 64% of the intervals held it."""
    documents = np.repeat(np.arange(num_documents), blocks_each)[:, None].repeat(3, axis=1)
    holds, naive = [], []
    for seed in range(SIMULATIONS):
        generator = np.random.default_rng((4, seed))
        between = generator.normal(0, 0.2**0.5, num_documents)[documents]
        kl = 5 + between + generator.normal(0, 0.8**0.5, documents.shape)
        found = entries(summary_of(np.stack([0 * kl, kl]), np.stack([0 * kl, kl]), documents))["sae"]
        holds += [low <= 5 <= high for low, high in found["by_position"]["ci95"]]
        margin = 1.96 * kl.std(0, ddof=1) / len(kl) ** 0.5
        naive += list(np.abs(kl.mean(0) - 5) <= margin)
    print(f"\ncoverage {np.mean(holds):.4f}; of tokens taken as independent {np.mean(naive):.4f}")
    assert 0.93 <= np.mean(holds) <= 0.97
    assert np.mean(naive) < 0.9 or blocks_each < 20


@pytest.mark.slow
def test_the_clustered_t_holds_its_level_and_the_unpaired_test_does_not():
    """Paired differences of mean 0.25: documents differ in how much, tokens scatter about that."""
    rejected = []
    for seed in range(SIMULATIONS):
        generator = np.random.default_rng((5, seed))
        lengths = np.maximum(2, generator.lognormal(4, 0.8, 200)).astype(int)
        documents = np.repeat(np.arange(200), lengths)
        differences = generator.normal(0.25, 1, 200)[documents] + generator.normal(0, 1, len(documents))
        base = generator.normal(0, 1, len(documents))
        sums = np.bincount(documents, differences - 0.25)
        moments = [(x.mean(), x.std(ddof=1), len(x)) for x in (base + differences - 0.25, base)]
        rejected.append(
            [clustered_t(sums, lengths.astype(float))["p"] < 0.05, unpaired_t(*moments)["p"] < 0.05]
        )
    clustered, unpaired = np.mean(rejected, axis=0)
    print(f"\ntrue nulls rejected: clustered t {clustered:.4f}, unpaired t as published {unpaired:.4f}")
    assert 0.03 <= clustered <= 0.07
    assert unpaired > 0.3
