"""Inception against torch-fidelity's, from a file that the conversion of its pickle made."""

import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import metric_weights  # noqa: E402
import reference_packages  # noqa: E402

from ragaf_jax.errors import UserError  # noqa: E402
from ragaf_jax.evaluation.networks.inception import inception  # noqa: E402
from ragaf_jax.evaluation.networks.weights import load_inception  # noqa: E402

extractors = reference_packages.imported("torch_fidelity.feature_extractor_inceptionv3")

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def both(tmp_path_factory, seed):
    """Theirs in float64 and our parameters, both from one pickle."""
    folder = tmp_path_factory.mktemp("inception")
    stored = metric_weights.tensors(metric_weights.inception_params(np.random.default_rng(seed)))
    pickle = folder / "inception.pth"
    torch.save({name: torch.from_numpy(x) for name, x in stored.items()}, pickle)
    with pytest.raises(UserError) as error:
        load_inception(str(pickle))
    command = shlex.split(str(error.value).partition("with PyTorch: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, env=os.environ)
    theirs = extractors.FeatureExtractorInceptionV3(
        "inception",
        ["2048", "logits"],
        feature_extractor_weights_path=str(pickle),
        feature_extractor_internal_dtype="float64",
    )
    unbiased = extractors.FeatureExtractorInceptionV3(
        "inception", ["logits_unbiased"], str(pickle), "float64"
    )
    return theirs, unbiased, load_inception(str(folder / "inception.safetensors"))


def error(ours, theirs):
    return np.linalg.norm(np.float64(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("size", [(37, 53), (299, 299), (401, 320)], ids=str)
def test_features_and_logits(rng, both, size):
    theirs, unbiased, params = both
    # Smooth as well as noisy, since noise alone looks everywhere alike.
    coarse = np.kron(rng.integers(0, 256, (2, 5, 5, 3)), np.ones((1, 90, 90, 1)))
    images = coarse[:, : size[0], : size[1]] + rng.normal(0, 20, (2, *size, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    expected = [y.numpy().astype(np.float64) for y in (*theirs(x), *unbiased(x))]
    ours = inception(params, images)
    for name, a, b in zip(ours._fields, ours, expected, strict=True):
        assert a.shape == b.shape
        print(f"{name} of {size}: {error(a, b):.1e}, between pictures {error(b[0], b[1]):.1e}")
        assert error(a, b) <= TOLERANCE
        assert error(b[0], b[1]) > 0.01


@pytest.mark.parametrize(
    "name", ["Mixed_5b.branch_pool.bn.running_mean", "Mixed_7c.branch_pool.conv.weight", "fc.bias"]
)
def test_every_part_is_seen(rng, both, name):
    """The comparison would fail if the pools or the statistics had been left out."""
    theirs, _, params = both
    images = rng.integers(0, 256, (1, 37, 53, 3)).astype(np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    parameter = theirs.state_dict()[name]
    kept = parameter.clone()
    parameter.zero_()
    changed = theirs(x)[1].numpy()
    parameter.copy_(kept)
    assert error(inception(params, images).logits, changed) > 10 * TOLERANCE
