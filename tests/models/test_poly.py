"""PolySAE's polynomial on the residual, against its formula written out."""

import torch

from sae_nfm.models.codes import Codes
from sae_nfm.models.residuals.nfm import REFERENCE_WIDTH
from sae_nfm.models.residuals.poly import PolynomialDecoder
from small_models import NFM_SETTINGS


def test_it_is_the_polynomial_of_a_shared_low_rank():
    torch.manual_seed(0)
    model = PolynomialDecoder(20, 4, **{**NFM_SETTINGS, "order": 3, "d_embed": 5}).double()
    codes = Codes(torch.rand(7, 3).double(), torch.randint(0, 20, (7, 3)))
    model.initialize_(codes)
    assert model(codes).total.abs().max() == 0
    torch.nn.init.normal_(model.head.W_out)
    a = codes.dense(20) @ model.V
    squares, cubes = (model.pool_scale * torch.cat([a**2, a**3], 1)).chunk(2, dim=1)
    maps = model.head.W_out.split(5)
    expected = (squares @ maps[0] + cubes @ maps[1]) * (REFERENCE_WIDTH / 5)
    torch.testing.assert_close(model(codes).interaction, expected)
