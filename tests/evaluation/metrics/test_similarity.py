"""PSNR and SSIM against scikit-image, MS-SSIM against its definition."""

import numpy as np
import pytest
from fakes import mixed
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.similarity import SCALE_WEIGHTS, ms_ssim, psnr, ssim

METRICS = (psnr, ssim, ms_ssim)


def two_pictures(rng, height, width, count=3):
    """Smooth colours, and the same under noise from hardly any to past recognition."""
    coarse = rng.uniform(-80, 335, (count, height, width, 3))
    smooth = ndimage.gaussian_filter(coarse, (0, 9, 9, 0)) * 9 - 8 * 127.5
    noise = np.linspace(2, 90, count)[:, None, None, None] * rng.normal(size=coarse.shape)
    return tuple(
        np.clip(page, 0, 255).round().astype(np.uint8) for page in (smooth, smooth + noise)
    )


def theirs(metric, pictures, references, **options):
    return [
        metric(a, b, data_range=255, **options) for a, b in zip(references, pictures, strict=True)
    ]


def test_pairs_may_differ_in_size_from_each_other(rng):
    parts = [two_pictures(rng, *size, count=2) for size in ((11, 11), (12, 20))]
    pictures, references = (mixed(*each) for each in zip(*parts, strict=True))
    for metric in (psnr, ssim):
        alone = np.transpose([metric(*part) for part in parts]).ravel()
        np.testing.assert_array_equal(metric(pictures, references), alone)
    with pytest.raises(UserError, match="11x11 pixels and their references 20x12"):
        psnr(pictures, references[::-1])


@pytest.mark.parametrize("height, width", [(11, 11), (40, 64), (97, 53)])
def test_is_that_of_scikit_image(rng, height, width):
    pictures = two_pictures(rng, height, width)
    np.testing.assert_allclose(
        psnr(*pictures), theirs(peak_signal_noise_ratio, *pictures), rtol=1e-9
    )
    expected = theirs(
        structural_similarity,
        *pictures,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    np.testing.assert_allclose(ssim(*pictures), expected, rtol=1e-6)


def test_flat_pictures_differ_by_their_light_alone():
    """(2ab + c₁) / (a² + b² + c₁) exactly, in spite of the rounding of variances that are 0."""
    first, second = 30, 201
    pages = [np.full((1, 20, 20, 3), value, np.uint8) for value in (first, second)]
    stabiliser = (0.01 * 255) ** 2
    expected = (2 * first * second + stabiliser) / (first**2 + second**2 + stabiliser)
    np.testing.assert_allclose(ssim(*pages), expected, rtol=1e-9)


def moments(first, second):
    """Means, variances and covariance in the window of every pixel that has a whole one."""

    def blurred(page):
        return ndimage.gaussian_filter(page, 1.5, truncate=3.5)[5:-5, 5:-5]

    mean, other = blurred(first), blurred(second)
    return (
        *(mean, other, blurred(first**2) - mean**2, blurred(second**2) - other**2),
        blurred(first * second) - mean * other,
    )


def by_definition(first, second):
    """Wang, Simoncelli & Bovik 2003, eq. 7, on one channel."""
    luminance, structure = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS, 1):
        a, b, aa, bb, ab = moments(first, second)
        term = (2 * ab + structure) / (aa + bb + structure)
        if scale == len(SCALE_WEIGHTS):
            term = term * (2 * a * b + luminance) / (a**2 + b**2 + luminance)
        product *= max(term.mean(), 0.0) ** weight
        first, second = (
            ndimage.uniform_filter(page, 2, mode="reflect", origin=-1)[::2, ::2]
            for page in (first, second)
        )
    return product


@pytest.mark.parametrize("height, width", [(161, 161), (176, 203), (256, 192)])
def test_multi_scale_by_its_definition(rng, height, width):
    pictures = two_pictures(rng, height, width)
    expected = [
        np.mean([by_definition(*(page[..., c].astype(float) for page in pair)) for c in range(3)])
        for pair in zip(*pictures, strict=True)
    ]
    np.testing.assert_allclose(ms_ssim(*pictures), expected, rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_more_distortion_is_less_alike(rng, metric):
    pictures, distorted = two_pictures(rng, 180, 170)
    noise, pictures = distorted - pictures.astype(int), pictures[:1].repeat(3, 0)
    scores = metric(np.clip(pictures + noise, 0, 255).astype(np.uint8), pictures)
    assert (np.diff(scores) < 0).all()


@pytest.mark.parametrize("metric, best", [(psnr, np.inf), (ssim, 1), (ms_ssim, 1)])
def test_itself_symmetry_and_order(rng, metric, best):
    first, second = two_pictures(rng, 176, 192)
    np.testing.assert_allclose(metric(first, first), best, rtol=1e-12)
    scores = metric(first, second)
    assert scores.max() < best
    np.testing.assert_allclose(metric(second, first), scores, rtol=1e-9)
    order = rng.permutation(3)
    np.testing.assert_array_equal(metric(first[order], second[order]), scores[order])
    np.testing.assert_allclose(metric(first[..., ::-1], second[..., ::-1]), scores, rtol=1e-9)
    mirrored = metric(*(np.ascontiguousarray(page[:, :, ::-1]) for page in (first, second)))
    np.testing.assert_allclose(mirrored, scores, rtol=1e-9)


def test_a_negative_is_at_the_lower_end(rng):
    first, _ = two_pictures(rng, 170, 180)
    assert (ssim(first, 255 - first) < 0.3).all()
    np.testing.assert_allclose(ms_ssim(first, 255 - first), 0, atol=0.1)


@pytest.mark.parametrize("metric, least", [(ssim, 11), (ms_ssim, 161)])
def test_too_small_a_picture_is_named(metric, least):
    page = np.zeros((1, least, least - 1, 3), np.uint8)
    with pytest.raises(UserError, match=f"{least - 1}x{least} pixels.*needs {least} a side"):
        metric(page, page)
    enough = np.zeros((1, least, least, 3), np.uint8)
    np.testing.assert_allclose(metric(enough, enough), 1)


@pytest.mark.parametrize("metric", METRICS)
def test_sizes_must_agree(metric):
    with pytest.raises(UserError, match="200x180.*200x200"):
        metric(np.zeros((1, 180, 200, 3), np.uint8), np.zeros((1, 200, 200, 3), np.uint8))
