"""What an activation is replaced by: reconstructions of it, made from the activation and its parts alone.

In the configuration stands a `Reconstruction`: what it is, what it needs, and how it is built once that is
there. What is built is a `Replacement`, which the evaluation calls.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.residuals.linear import LinearControl
from sae_nfm.models.residuals.mlp import CodesMLP
from sae_nfm.models.residuals.planted import PlantedProducts
from sae_nfm.recipes.course import Candidate
from sae_nfm.recipes.training import finished
from sae_nfm.recipes.workshop import Workshop, num_parameters
from sae_nfm.settings.values import Count, checked
from sae_nfm.store.store import fingerprint
from sae_nfm.training.parts import PARTS, Part

Need = Literal["nfm", "plant", "trained_sae", "surroundings", "latent_solution", "together", "tuned", "joint"]
"""`latent_solution`: least squares over all latents, which take memory. `together`: a stage that trains
interactions and what is linear together. `tuned`: a stage that trains parts further, or from scratch.
`joint`: one that trains SAE and NFM from scratch together."""


class Replacement(nn.Module):
    """Makes what stands in for an activation; models that it calls are on the evaluation's device."""

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """The replacement of every position."""
        raise NotImplementedError


class Reconstruction:
    """A way to make a replacement, from the activation and its parts alone.

    Attributes:
        role: what it is to the findings, whatever its name.
        needs: without which it cannot be built.
    """

    role: str = "control"
    needs: frozenset[Need] = frozenset()

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """Obtain what it takes.

        Args:
            name: that it has in the study.
            workshop: where SAE and NFM are made already.
        """
        raise NotImplementedError


class OfTheBatch(Reconstruction, Replacement):
    """A reconstruction that the batch itself has all of: nothing is made for it."""

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """It is its own replacement."""
        return self


class Identity(OfTheBatch):
    """The activation itself: the KL of this condition is what rounding alone makes of the suffix."""

    role = "identity"

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """What was there."""
        return batch.x


@checked
class FromParts(OfTheBatch):
    """The SAE's reconstruction plus some of the NFM's parts.

    Args:
        add: `linear`, `interaction`, both or none of them.
    """

    def __init__(self, add: Sequence[Literal["linear", "interaction"]]) -> None:
        super().__init__()
        self.add = tuple(add)
        self.role = "nfm" if len(self.add) == 2 else self.add[0] if self.add else "sae"
        self.needs = frozenset({"nfm"}) if self.add else frozenset()

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """x̂ and the parts asked for."""
        return batch.parts.reconstruction(self.add)


class FromControl(Reconstruction):
    """The SAE's reconstruction corrected by a linear control.

    Args:
        control: predicts the residual, once it is solved.
    """

    def __init__(self, control: LinearControl) -> None:
        self.control = control
        self.role = "refit" if control.solves_every_latent else "control"
        self.needs = frozenset({"latent_solution"}) if control.solves_every_latent else frozenset()

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """Solve the control."""
        return Corrected(workshop.solved(name, self.control))


@checked
class FromMLP(Reconstruction):
    """The SAE's reconstruction corrected by an MLP on the codes.

    Args:
        d_hidden: hidden units; None is as many as give the NFM's number of parameters.
        support: whether it also reads which latents are active.
        rounds: on how many times the NFM's tokens it is trained.

    Raises:
        NotAllowed: a number is out of range.
    """

    def __init__(self, d_hidden: Count | None, support: bool, rounds: Count) -> None:
        self.d_hidden, self.support, self.rounds = d_hidden, support, rounds
        self.role = "codes_bound" if support else "control"
        needed: set[Need] = {"latent_solution"} if d_hidden else {"latent_solution", "nfm"}
        self.needs = frozenset(needed)

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """Train the MLP, by the stages that the NFM is trained by."""
        sae = workshop.autoencoder.sae
        hidden = self.d_hidden or CodesMLP.hidden_for(workshop.nfm_size(), sae.d_sae, sae.d_in, self.support)
        node = {
            "_target_": f"{CodesMLP.__module__}.CodesMLP",
            "d_hidden": hidden,
            "support": self.support,
        }

        def build(d_sae: int, d_out: int) -> ResidualModel:
            return CodesMLP(d_sae, d_out, hidden, self.support)

        candidate = Candidate(name, frozenset[Part](PARTS), node, build, self.rounds)
        return _replacement(finished(candidate, workshop), workshop)


@checked
class WithoutParts(Reconstruction):
    """The study's dictionary, trained without some of its parts by the same stages.

    Without the interactions it is the best linear reconstruction that the same training gives: what
    interactions are worth is what they add to it, rather than to a linear part that grew up beside them.

    Args:
        without: `interaction`; or `linear` and `interaction`, for the SAE alone.
    """

    def __init__(self, without: Sequence[Literal["linear", "interaction"]]) -> None:
        self.without = frozenset[Part](without)
        sae_alone = self.without == {"linear", "interaction"}
        self.role = "sae_alone" if sae_alone else "linear_alone"
        self.needs = frozenset({"nfm", "tuned" if sae_alone else "together"})

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """Train it."""
        there, node = frozenset[Part](PARTS) - self.without, workshop.order.nfm_node
        if self.role == "sae_alone" or node is None:
            return _replacement(finished(Candidate(name, there), workshop), workshop)
        node = {**node, "interaction": False}
        return _replacement(
            finished(Candidate(name, there, node, workshop.from_node(node)), workshop), workshop
        )


class OneAfterTheOther(Reconstruction):
    """The study's dictionary trained part by part: what parts that were trained together are held against."""

    role = "sequential"
    needs = frozenset({"nfm", "joint"})

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """Train it."""
        node = workshop.order.nfm_node
        candidate = Candidate(name, frozenset[Part](PARTS), node, workshop.from_node(node))
        return _replacement(finished(candidate, workshop, workshop.order.sequential), workshop)


def _replacement(candidate: Candidate, workshop: Workshop) -> Replacement:
    """What a finished dictionary makes of an activation; the study's SAE does not run twice."""
    if candidate.foundation is workshop.foundation and candidate.nfm is not None:
        return Corrected(candidate.nfm)
    return FromAutoencoder(candidate.autoencoder)


class Corrected(Replacement):
    """x̂ plus what a control predicts of its residual.

    Args:
        control: has `residual(x, codes)`, all in the normaliser's units.
    """

    def __init__(self, control: LinearControl | ResidualModel) -> None:
        super().__init__()
        self.control = control

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """x̂ and the control's correction."""
        explained = batch.parts.explained
        correction = self.control.residual(explained.target, explained.codes)
        return batch.parts.sae + explained.units.inverse_difference(correction)


class WideSAE(Reconstruction):
    """A wider SAE alone, with as many parameters as SAE and NFM together, otherwise like the study's."""

    needs = frozenset({"nfm", "trained_sae"})

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """Train it."""
        size = num_parameters(workshop.autoencoder.sae) + workshop.nfm_size()
        alone = Candidate(name, frozenset[Part]({"sae"}), wider=size)
        return _replacement(finished(alone, workshop), workshop)


class FromAutoencoder(Replacement):
    """Another dictionary's reconstruction.

    Args:
        autoencoder: its normaliser, its SAE, and its model of the residual, where it has one.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """Its reconstruction of the same activation."""
        return self.autoencoder(batch.x).whole


class Planted(Reconstruction):
    """The SAE's reconstruction plus what was planted: at the residual, no model of the codes does better.

    Where stages tune the NFM for what the model does, the best at the residual is not the best at that: the
    planted products and a linear part beside them are then tuned by the same stages.
    """

    role = "planted"
    needs = frozenset({"plant"})

    def build(self, name: str, workshop: Workshop) -> Replacement:
        """Tune it, where the NFM is tuned."""
        foundation, node = workshop.foundation, workshop.order.nfm_node
        tunings = tuple(step for step in workshop.order.course if step.how == "tune")
        if node is None or not tunings:
            return PlantedPart()
        on = foundation.autoencoder
        assert on.plant is not None
        model = PlantedProducts.of(on.plant, on.sae.d_sae, linear=node["linear"], bias=node["bias"])
        known = {"model": model.settings(), "plant": workshop.artifacts["plant"]["fingerprint"]}
        candidate = Candidate(name, workshop.own.there, model.settings(), foundation=foundation)
        candidate.nfm, candidate.nfm_fingerprint = model, fingerprint(known)
        return _replacement(finished(candidate, workshop, tunings), workshop)


class PlantedPart(Replacement):
    """x̂ and the planted part."""

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """The batch has them."""
        assert batch.parts.planted is not None
        return batch.parts.sae + batch.parts.planted


class Zero(OfTheBatch):
    """The zero vector."""

    role = "zero"

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """Nothing at all."""
        return torch.zeros_like(batch.x)


class Mean(OfTheBatch):
    """The mean training activation."""

    role = "mean"
    needs = frozenset({"surroundings"})

    def forward(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """The same vector everywhere."""
        assert batch.surroundings is not None
        return batch.surroundings.mean.expand_as(batch.x)
