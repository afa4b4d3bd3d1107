"""The study that the example of `sae_nfm.study` makes, and its SAE in another tool's format."""

import json
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest

import doctests
from sae_nfm.export import export


@pytest.fixture(scope="session")
def made(corpus_file, tmp_path_factory):
    """A working directory with `text.txt`, `runs/first`, `artifacts` and `published/sae_lens`."""
    folder = tmp_path_factory.mktemp("project")
    generator, words = np.random.default_rng(0), corpus_file.read_text().split()
    texts = [" ".join(generator.choice(words, size=generator.integers(5, 120))) for _ in range(1500)]
    (folder / "text.txt").write_text("\n\n".join(texts))
    with chdir(folder):
        doctests.run("study")
        export("runs/first", "sae_lens", Path("published/sae_lens"))
    return folder


@pytest.fixture
def project(made, monkeypatch):
    """That directory, where the test then runs."""
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def result(project):
    """What the study found."""
    return json.loads(Path("runs/first/result.json").read_text())
