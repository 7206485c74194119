"""LPIPS against the authors' package, and the weights that we carry against its."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import reference_packages  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch_models import generator  # noqa: E402

from ragaf_jax.evaluation.networks.lpips import lpips as ours  # noqa: E402
from ragaf_jax.evaluation.networks.weights import HEADS, load_lpips  # noqa: E402

theirs = reference_packages.imported("lpips")

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=["alex", "vgg"])
def both(request, tmp_path_factory, seed):
    """Theirs in float64 on a random backbone, and our parameters from torchvision's file of it."""
    net, rng = request.param, np.random.default_rng(seed)
    features = reference_packages.FEATURES[net]()
    draw = generator(rng)
    for parameter in features.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = scale * torch.randn(parameter.shape, generator=draw)
    state = {f"features.{name}": x for name, x in features.state_dict().items()}
    file = tmp_path_factory.mktemp(net) / "backbone.safetensors"
    save_file(state | {"classifier.1.weight": torch.ones(3, 2)}, file)
    metric = theirs.LPIPS(net=net, pnet_rand=True, verbose=False)
    # Its slices of the backbone keep torchvision's numbers.
    slices = metric.net.state_dict()
    metric.net.load_state_dict(
        {name: state[f"features.{name.partition('.')[2]}"] for name in slices}
    )
    return net, metric.double().requires_grad_(False), load_lpips(str(file), net)


def nchw(images):
    return torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(64, 64), (35, 83), (121, 50)], ids=str)
def test_distances(rng, both, size):
    net, metric, params = both
    a = rng.integers(0, 256, (3, *size, 3)).astype(np.uint8)
    b = rng.integers(0, 256, (3, *size, 3)).astype(np.uint8)
    b[1] = np.clip(a[1].astype(int) + rng.integers(-9, 10, a[1].shape), 0, 255)
    b[2] = a[2, ::-1]
    expected = metric(nchw(a), nchw(b)).numpy()[:, 0, 0, 0]
    found = np.asarray(ours(params, a, b), np.float64)
    worst = (np.abs(found - expected) / expected).max()
    print(f"{net} of {size}: {worst:.1e}; distances {expected}")
    assert worst <= TOLERANCE
    assert expected.max() > 2 * expected.min()


def test_our_copy_of_the_weights_is_theirs(both):
    net, metric, _ = both
    stored = load_file(HEADS)
    for i in range(5):
        name = f"lin{i}.model.1.weight"
        torch.testing.assert_close(
            stored[f"{net}.{name}"].double(), metric.state_dict()[name], rtol=0, atol=0
        )
