"""A tiny model and a dictionary on it, in float64, and a task that attributes its NFM's gain."""

import torch

from random_lms import random_lm
from sae_nfm.attribution.halves import Batches
from sae_nfm.attribution.interactions import Interactions
from sae_nfm.attribution.resumed import Resumed
from sae_nfm.attribution.sums import LatentSums, PairSums, PartSums
from sae_nfm.attribution.task import AttributionTask, Sums, part_names
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import Site
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.store.ranks import Ranks
from sae_nfm.training.objectives.kl import KL
from sae_nfm.training.through_model import ThroughModel

D_SAE, K, BLOCKS, CONTEXT = 20, 6, 3, 8
SITE = Site(1, "resid_post")


class Blocks:
    """Blocks of random tokens in place of a split, each a document that BOS opens."""

    def __init__(self):
        self.all = torch.randint(1, 4096, (BLOCKS, CONTEXT), generator=torch.Generator().manual_seed(0))
        self.all[:, 0] = 0
        self.num_documents = BLOCKS

    def tokens(self, numbers):
        return self.all[numbers]

    def documents(self, numbers):
        return torch.as_tensor(numbers).unsqueeze(1).expand(-1, CONTEXT)


class Scored:
    """All positions but BOS."""

    def __init__(self):
        self.blocks = Blocks()

    def scored(self, numbers, tokens):
        return tokens != 0


def small_task(tmp_path, order=2, mlp=False, nodes=8, busiest=D_SAE, d_embed=5, dropout=0):
    """The task, and the numbers of its blocks."""
    torch.manual_seed(0)
    lm = random_lm("gpt2")
    sae = TopKSAE(lm.d_model, D_SAE, K)
    nfm = NeuralFactorizationMachine(
        D_SAE, lm.d_model, order, d_embed, 0.3, linear=True, bias=True, interaction=True, mlp=mlp,
        dropout=dropout, fit="together", fit_k=None,
    )  # fmt: skip
    autoencoder = Autoencoder(Normalizer(lm.d_model, "per_dimension"), sae, nfm).double()
    prefix = lm.prefix(Scored().blocks.all, SITE)
    autoencoder.initialize_sae_(prefix.activation.flatten(0, 1))
    autoencoder.initialize_nfm_(autoencoder.codes(prefix.activation.flatten(0, 1)))
    with torch.no_grad():
        for parameter in (nfm.W_lin, nfm.b, nfm.head.W_out, nfm.head.b_out):
            parameter.normal_(std=0.3)
    autoencoder.eval().requires_grad_(False)
    interactions = Interactions(nfm, autoencoder.normalizer.scale)
    scored = Scored()
    sums = Sums(
        PartSums(part_names(interactions, True), BLOCKS),
        PairSums(torch.arange(busiest), D_SAE),
        latents=LatentSums(D_SAE),
    )
    resumed = Resumed(tmp_path / "unfinished", "all", "test", Ranks(), 1000)
    task = AttributionTask(lm, SITE, autoencoder, scored, Batches(torch.arange(BLOCKS).numpy(), BLOCKS),
                           nodes, True, sums, None, resumed)  # fmt: skip
    task.through = ThroughModel(Passage(lm, SITE), KL(), BLOCKS)
    return task, torch.arange(BLOCKS)
