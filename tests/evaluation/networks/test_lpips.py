"""LPIPS: what holds for any weights, and its own, which are in the package."""

import tomllib
from pathlib import Path

import metric_weights
import numpy as np
import pytest
from safetensors.numpy import load_file

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.networks.lpips import BACKBONES, lpips
from ragaf_jax.evaluation.networks.weights import HEADS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", params=BACKBONES)
def net(request):
    return request.param


@pytest.fixture(scope="module")
def params(net, seed):
    return metric_weights.lpips_params(np.random.default_rng(seed), net)


def pictures(rng, *shape):
    return rng.integers(0, 256, (*shape, 3)).astype(np.uint8)


def test_a_distance(rng, params):
    a, b = pictures(rng, 3, 35, 47), pictures(rng, 3, 35, 47)
    there, back = lpips(params, a, b), lpips(params, b, a)
    assert there.shape == (3,) and there.dtype == np.float32
    assert (np.asarray(there) > 0).all()
    np.testing.assert_allclose(there, back, rtol=1e-4)
    np.testing.assert_allclose(lpips(params, a, a), np.zeros(3), atol=1e-9)
    # Nearer pictures are nearer.
    near = np.clip(a.astype(int) + rng.integers(-3, 4, a.shape), 0, 255).astype(np.uint8)
    assert (np.asarray(lpips(params, a, near)) < np.asarray(there)).all()


def test_a_batch_is_its_pairs_one_by_one(rng, params):
    a, b = pictures(rng, 3, 35, 47), pictures(rng, 3, 35, 47)
    together = lpips(params, a, b)
    alone = [lpips(params, a[i : i + 1], b[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_the_smallest_pictures(rng, net, params):
    least = BACKBONES[net].least
    for size in ((least, least + 9), (least + 9, least)):
        assert np.isfinite(lpips(params, pictures(rng, 1, *size), pictures(rng, 1, *size))).all()
    for size in ((least - 1, 50), (50, least - 1)):
        a = pictures(rng, 1, *size)
        with pytest.raises(
            UserError, match=f"{size[1]}×{size[0]} pixels, .* at least {least} .*{net}"
        ):
            lpips(params, a, a)


def test_the_weights_in_the_package():
    stored = load_file(HEADS)
    widths = {net: [stage[-1].features for stage in BACKBONES[net].stages] for net in BACKBONES}
    assert {name: x.shape for name, x in stored.items()} == {
        f"{net}.lin{i}.model.1.weight": (1, width, 1, 1)
        for net in BACKBONES
        for i, width in enumerate(widths[net])
    }
    assert all((x >= 0).all() and x.any() for x in stored.values())
    assert "Redistribution" in HEADS.with_suffix(".LICENSE").read_text()


def test_the_weights_are_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["ragaf_jax.evaluation.networks"]
    packaged = {file.name for pattern in patterns for file in HEADS.parent.glob(pattern)}
    assert packaged == {HEADS.name, HEADS.with_suffix(".LICENSE").name}
