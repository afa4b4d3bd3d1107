"""The divergence and the squared error together, each with the same weight at every step."""

from sae_nfm.training.objectives.kl import KL


class KLAndReconstruction(KL):
    """KL(clean‖spliced) + a·MSE with a = KL/MSE, held fixed: both terms count as much (Karvonen 2025).

    The loss is twice the divergence, in nats/token; the paper (arXiv 2503.17272) weights the divergence
    instead, which is the same but for the scale.
    """

    name = "kl_reconstruction"
    adds_reconstruction = True
