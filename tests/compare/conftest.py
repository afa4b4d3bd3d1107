"""What tests of comparisons share."""

import itertools

import pytest

from fake_results import write_study
from sae_nfm.compare.studies import read_studies
from sae_nfm.compare.varied import varied_settings


@pytest.fixture
def studies_of(tmp_path):
    """Compared studies of results, and the settings that vary between them."""
    number = itertools.count()

    def of(results):
        folder = tmp_path / str(next(number))
        for i, result in enumerate(results):
            write_study(folder / f"job-{i:03}", result)
        studies, problems = read_studies([folder])
        assert problems == []
        return studies, varied_settings(studies)

    return of
