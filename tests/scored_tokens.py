"""What an evaluation measures at every scored token, and the sums that it keeps of it."""

import numpy as np
import torch
from scipy import stats

from sae_nfm.baselines.matched import Eps
from sae_nfm.evaluation.condition import conditions
from sae_nfm.findings.summary import Summary
from sae_nfm.measures.sums import EvaluationSums, TokenValues, measures

BLOCKS, CONTEXT, DOCUMENTS, TOP = 40, 7, 25, 5
NAMES = ("clean", "sae", "sae_nfm", "zero", "eps(sae)")
DRAWS = {"eps(sae)": 3}
ROLES = {"sae": "sae", "sae_nfm": "nfm", "zero": "zero"}
CONDITIONS = conditions(ROLES, {"eps": Eps()}, ["sae"], DRAWS["eps(sae)"])
LEVEL = {"clean": 0.0, "sae": 1.0, "sae_nfm": 0.7, "zero": 5.0, "eps(sae)": 0.4}


class Tokens:
    """What was measured at every scored token, as plain arrays."""

    def __init__(self, top_n=0, num_documents=DOCUMENTS, level=LEVEL, draws=DRAWS):
        self.names = tuple(level)
        generator = np.random.default_rng(0)
        shape = (BLOCKS, CONTEXT)
        self.documents = np.sort(generator.integers(num_documents, size=shape).ravel()).reshape(shape)
        self.scored = generator.random(shape) > 0.2
        self.scored[:, 0] = False
        self.has_target = self.scored & (np.arange(CONTEXT) < CONTEXT - 1)
        of_document = np.exp(generator.normal(0, 0.5, num_documents))[self.documents]
        self.kl_draws = {
            name: level[name] * of_document * generator.lognormal(0, 0.7, (draws.get(name, 1), *shape))
            for name in self.names
        }
        self.measures = measures(top_n)
        self.values = {name: generator.random((len(self.measures), *shape)) for name in self.names}
        for name in self.names:
            self.values[name][0] = self.kl_draws[name].mean(0)
            self.values[name][1] = 3 + 0.9 * self.values[name][0]

    def sums(self):
        metric = EvaluationSums(self.measures, len(self.names), CONTEXT, DOCUMENTS + 3)
        metric.update(
            TokenValues(
                torch.from_numpy(np.stack([self.values[name] for name in self.names], axis=1)),
                [torch.from_numpy(self.kl_draws[name]) for name in self.names],
                *map(torch.from_numpy, (self.scored, self.has_target, self.documents)),
            )
        )
        return metric.compute()

    def of(self, name, measure):
        """A measure at every token that it is averaged over."""
        chosen = self.has_target if measure == "ce" else self.scored
        return self.values[name][self.measures.index(measure)][chosen]

    def by_document(self, name, measure="kl"):
        values = self.of(name, measure)
        chosen = self.has_target if measure == "ce" else self.scored
        present = np.unique(self.documents[self.scored])
        return np.array([values[self.documents[chosen] == document].sum() for document in present])

    def tokens_by_document(self):
        return np.unique(self.documents[self.scored], return_counts=True)[1].astype(float)


def summary_of(tokens, top_n=0, named=CONDITIONS):
    return Summary(named, tokens.sums(), top_n)


def interval(numerator, denominator):
    """The jackknife interval of a quotient of two sums over documents, one document left out at a time."""
    num, value = len(numerator), numerator.sum() / denominator.sum()
    others = [np.delete(numerator, i).sum() / np.delete(denominator, i).sum() for i in range(num)]
    margin = stats.t.ppf(0.975, num - 1) * np.sqrt((num - 1) / num * np.square(others - value).sum())
    return [value - margin, value + margin]
