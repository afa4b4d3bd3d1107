"""What tests of models share."""

import pytest

from sae_nfm.models.crossover import CROSSOVERS, Crossover


@pytest.fixture(params=[0.0, 2.0], ids=["written_out", "active_alone"])
def way(request, monkeypatch):
    """Both ways in which a sum over codes is computed."""
    share = request.param
    monkeypatch.setitem(CROSSOVERS, "cpu", Crossover(share, share, share))
