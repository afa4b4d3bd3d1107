"""Every SAE family, with its formula written out: a new family is one line more in `FAMILIES`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sae_nfm.models.saes.base import SparseAutoencoder, variance
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.gated import GatedSAE
from sae_nfm.models.saes.jumprelu import JumpReLUSAE
from sae_nfm.models.saes.matryoshka import MatryoshkaSAE
from sae_nfm.models.saes.relu import ReLUSAE
from sae_nfm.models.saes.topk import TopKSAE

D_IN, D_SAE, L0 = 16, 32, 4


def affine(sae, x):
    return (x - sae.b_dec if sae.subtracts_b_dec else x) @ sae.W_enc + sae.b_enc


def by_relu(sae, x):
    return affine(sae, x).relu()


def by_topk(sae, x):
    pre = affine(sae, x)
    return torch.where(pre >= pre.topk(sae.k, dim=-1).values[..., -1:], pre, 0).relu()


def by_threshold(sae, x):
    pre = affine(sae, x)
    return torch.where(pre > sae.threshold, pre, 0).relu()


def by_largest(sae, x):
    pre = affine(sae, x)
    return torch.where(pre >= pre.flatten().topk(sae.k * len(x)).values[-1], pre, 0).relu()


def by_gates(sae, x):
    c = (x - sae.b_dec if sae.subtracts_b_dec else x) @ sae.W_enc
    return torch.where(c + sae.b_gate > 0, (sae.r_mag.exp() * c + sae.b_mag).relu(), 0)


class Family(NamedTuple):
    """A family as the tests see it."""

    cls: type[SparseAutoencoder]
    target: str
    """Its setting for the number of active latents."""
    latents: Callable[..., torch.Tensor]
    """f of every token, written out."""
    in_training: Callable[..., torch.Tensor]
    """The same of a training batch."""
    settings: dict[str, Any] = {}  # noqa: RUF012

    def make(self, l0=L0, d_in=D_IN, d_sae=D_SAE, **settings):
        return self.cls(d_in=d_in, d_sae=d_sae, **{self.target: l0}, **self.settings, **settings)


FAMILIES = {
    "topk": Family(TopKSAE, "k", by_topk, by_topk),
    "batch_topk": Family(BatchTopKSAE, "k", by_threshold, by_largest),
    "matryoshka": Family(MatryoshkaSAE, "k", by_threshold, by_largest, {"prefixes": [0.25, 0.5]}),
    "jumprelu": Family(JumpReLUSAE, "l0", by_threshold, by_threshold),
    "relu": Family(ReLUSAE, "l0", by_relu, by_relu),
    "gated": Family(GatedSAE, "l0", by_gates, by_gates),
}


def randomized(sae, seed=0):
    """The SAE in float64, with no bias and no threshold at 0."""
    generator = torch.Generator().manual_seed(seed)
    sae = sae.double()
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            if name == "threshold":
                tensor.copy_(0.3 + 0.3 * torch.rand(tensor.shape, generator=generator))
            elif not name.startswith("W_"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return sae


def features(num_tokens, seed=0):
    """Tokens made of 3 of 16 orthogonal directions each."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(99))).Q
    chosen = torch.rand(num_tokens, D_IN, generator=generator).topk(3).indices
    sizes = 0.5 + torch.rand(num_tokens, 3, generator=generator)
    return (directions[chosen] * sizes.unsqueeze(-1)).sum(1) + 0.3


def loss_of(attempt, x):
    """As the task adds it up."""
    fvu = (x - attempt.reconstruction).pow(2).sum() / variance(x)
    return sum(attempt.terms.values(), start=fvu)


class Training:
    """Steps of training without the trainer; a batch is determined by the step."""

    def __init__(self, sae, lr=5e-3, batch=256):
        self.sae, self.batch, self.step = sae, batch, 0
        self.firing = Firing(sae.d_sae)
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=lr, betas=(0.9, 0.99))

    def run(self, num_steps):
        """The unexplained fraction and L0 of every step."""
        found = []
        for _ in range(num_steps):
            x = features(self.batch, seed=1000 + self.step)
            attempt = self.sae.attempt(x, self.firing)
            loss = loss_of(attempt, x)
            self.optimizer.zero_grad()
            loss.backward()
            self.firing.count(attempt.fired, attempt.l0, len(x))
            self.sae.before_step_()
            self.optimizer.step()
            self.sae.after_step_()
            self.step += 1
            fvu = (x - attempt.reconstruction).pow(2).sum() / variance(x)
            found.append((fvu.item(), attempt.l0.item()))
        return found

    def parts(self):
        return {"sae": self.sae, "firing": self.firing, "optimizer": self.optimizer}
