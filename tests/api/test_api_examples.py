"""Every function of the Python API does what the example in its docstring says."""

import pytest

import doctests


@pytest.mark.parametrize("name", sorted(doctests.public().keys() - {"study"}))  # which `project` runs
def test_the_example_of(name, project):
    doctests.run(name)
