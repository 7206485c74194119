"""Random parameters of every network, and a Stable Diffusion of these."""

import pytest
from written import random_trees, write


@pytest.fixture
def trees(rng):
    """Parameters by network."""
    return random_trees(rng)


@pytest.fixture
def folder(tmp_path, trees):
    """A Stable Diffusion in diffusers' layout."""
    return write(tmp_path / "sd", trees)
