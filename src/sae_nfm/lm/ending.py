"""The layers behind a site up to the unembedding, and logits of some tokens at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import Site


class Ending:
    """Runs what is behind a site as far as it can without making logits, which are the largest thing there.

    That is the whole model where its logits are not its unembedding's to the last bit, as where it scales
    them afterwards. The first block decides.

    Args:
        lm: the model.
        site: where activations are spliced in.
    """

    def __init__(self, lm: LanguageModel, site: Site) -> None:
        self._lm, self._site, self._passage = lm, site, Passage(lm, site)
        self._before_logits: bool | None = None

    @torch.no_grad()
    def __call__(
        self, activation: Float[Tensor, "row pos d_model"], resid: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos width"]:
        """Splice an activation in, and run the model on to what `logits` takes.

        Args:
            activation: what stands at the site, in the model's units; rows are blocks under any condition.
            resid: `Prefix.resid` of the same rows.
        """
        if self._before_logits is None:
            self._before_logits = self._passage.makes_the_logits(activation[:1], resid[:1])
        if self._before_logits:
            return self._passage(activation, resid).final
        return self._lm.suffix(activation, resid, self._site)

    def logits(self, reached: Float[Tensor, "*token width"]) -> Float[Tensor, "*token d_vocab"]:
        """The logits of some of what a call has reached."""
        return self._passage.logits(reached) if self._before_logits else reached
