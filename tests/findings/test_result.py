"""What a result says of where it was found."""

from importlib.metadata import PackageNotFoundError

import torch

from sae_nfm.findings import result


def test_a_source_tree_that_is_not_installed_has_an_environment(monkeypatch):
    def version(package):
        if package == "sae-nfm":
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(result, "version", version)
    found = result.environment(torch.device("cpu"))
    assert found["sae-nfm"] == "not installed"
    assert found["torch"] == "1.0"
