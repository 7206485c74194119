"""MS-SSIM and SSIM against pytorch-msssim's. Runs where it is installed."""

import numpy as np
import pytest
from scipy import ndimage

from ragaf_jax.evaluation.metrics.similarity import ms_ssim, ssim

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("pytorch_msssim")


def two_pictures(rng, height, width):
    """Smooth colours, and the same under more and more noise."""
    coarse = rng.uniform(-80, 335, (3, height, width, 3))
    smooth = ndimage.gaussian_filter(coarse, (0, 9, 9, 0)) * 9 - 8 * 127.5
    noise = np.array([3, 30, 90])[:, None, None, None] * rng.normal(size=coarse.shape)
    return tuple(
        np.clip(page, 0, 255).round().astype(np.uint8) for page in (smooth, smooth + noise)
    )


# Sides that halve four times: an odd one they frame with black, and Wang's code with itself.
@pytest.mark.parametrize("height, width", [(176, 176), (256, 192)])
@pytest.mark.parametrize("name, ours", [("ssim", ssim), ("ms_ssim", ms_ssim)])
def test_similarity(rng, height, width, name, ours):
    pictures = two_pictures(rng, height, width)
    pages = [torch.from_numpy(page.transpose(0, 3, 1, 2).astype(np.float64)) for page in pictures]
    # Their own window is of single precision.
    window = torch.from_numpy(np.exp(-np.square(np.arange(-5.0, 6)) / (2 * 1.5**2)))
    window = (window / window.sum()).expand(3, 1, 1, 11)
    expected = getattr(theirs, name)(*pages, data_range=255, size_average=False, win=window)
    np.testing.assert_allclose(ours(*pictures), expected, rtol=1e-9)
