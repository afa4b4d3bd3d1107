"""A control in one file: the residual from the number of active latents alone."""

import torch

from sae_nfm.models.codes import Codes
from sae_nfm.models.residuals.linear import LinearControl


class FromL0(LinearControl):
    def num_features(self, d_in, d_sae):
        return 1

    def features(self, x, codes):
        l0 = (codes.values > 0).sum(-1, keepdim=True).to(x.dtype)
        return Codes(l0, torch.zeros_like(l0, dtype=torch.int64))

    def residual(self, x, codes):
        return self.features(x, codes).values * self.weight[0] + self.bias
