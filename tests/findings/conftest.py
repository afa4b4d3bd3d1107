"""What tests of findings share."""

import pytest

from scored_tokens import Tokens, summary_of


@pytest.fixture
def tokens():
    return Tokens()


@pytest.fixture
def summary(tokens):
    return summary_of(tokens)
