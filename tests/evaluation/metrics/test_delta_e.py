"""CIEDE2000 against the pairs published with it, and against scikit-image."""

import numpy as np
from skimage.color import deltaE_ciede2000

from ragaf_jax.evaluation.metrics.delta_e import delta_e_2000
from ragaf_jax.palette import srgb_to_lab

# Sharma et al. 2005, table 1: L*, a*, b* of both colours, and their difference.
PUBLISHED = """
50.0000   2.6772 -79.7751 50.0000   0.0000 -82.7485  2.0425
50.0000   3.1571 -77.2803 50.0000   0.0000 -82.7485  2.8615
50.0000   2.8361 -74.0200 50.0000   0.0000 -82.7485  3.4412
50.0000  -1.3802 -84.2814 50.0000   0.0000 -82.7485  1.0000
50.0000  -1.1848 -84.8006 50.0000   0.0000 -82.7485  1.0000
50.0000  -0.9009 -85.5211 50.0000   0.0000 -82.7485  1.0000
50.0000   0.0000   0.0000 50.0000  -1.0000   2.0000  2.3669
50.0000  -1.0000   2.0000 50.0000   0.0000   0.0000  2.3669
50.0000   2.4900  -0.0010 50.0000  -2.4900   0.0009  7.1792
50.0000   2.4900  -0.0010 50.0000  -2.4900   0.0010  7.1792
50.0000   2.4900  -0.0010 50.0000  -2.4900   0.0011  7.2195
50.0000   2.4900  -0.0010 50.0000  -2.4900   0.0012  7.2195
50.0000  -0.0010   2.4900 50.0000   0.0009  -2.4900  4.8045
50.0000  -0.0010   2.4900 50.0000   0.0010  -2.4900  4.8045
50.0000  -0.0010   2.4900 50.0000   0.0011  -2.4900  4.7461
50.0000   2.5000   0.0000 50.0000   0.0000  -2.5000  4.3065
50.0000   2.5000   0.0000 73.0000  25.0000 -18.0000 27.1492
50.0000   2.5000   0.0000 61.0000  -5.0000  29.0000 22.8977
50.0000   2.5000   0.0000 56.0000 -27.0000  -3.0000 31.9030
50.0000   2.5000   0.0000 58.0000  24.0000  15.0000 19.4535
50.0000   2.5000   0.0000 50.0000   3.1736   0.5854  1.0000
50.0000   2.5000   0.0000 50.0000   3.2972   0.0000  1.0000
50.0000   2.5000   0.0000 50.0000   1.8634   0.5757  1.0000
50.0000   2.5000   0.0000 50.0000   3.2592   0.3350  1.0000
60.2574 -34.0099  36.2677 60.4626 -34.1751  39.4387  1.2644
63.0109 -31.0961  -5.8663 62.8187 -29.7946  -4.0864  1.2630
61.2901   3.7196  -5.3901 61.4292   2.2480  -4.9620  1.8731
35.0831 -44.1164   3.7933 35.0232 -40.0716   1.5901  1.8645
22.7233  20.0904 -46.6940 23.0331  14.9730 -42.5619  2.0373
36.4612  47.8580  18.3852 36.2715  50.5065  21.2231  1.4146
90.8027  -2.0831   1.4410 91.1528  -1.6435   0.0447  1.4441
90.9257  -0.5406  -0.9208 88.6381  -0.8985  -0.7239  1.5381
 6.7747  -0.2908  -2.4247  5.8714  -0.0985  -2.2286  0.6377
 2.0776   0.0795  -1.1350  0.9033  -0.0636  -0.5514  0.9082
"""


def test_differences_are_those_published():
    table = np.array([line.split() for line in PUBLISHED.split("\n") if line], np.float64)
    first, second, expected = table[:, :3], table[:, 3:6], table[:, 6]
    assert len(expected) == 34
    for pair in ((first, second), (second, first)):
        np.testing.assert_allclose(delta_e_2000(*pair), expected, rtol=0, atol=5.001e-5)


def test_differences_are_those_of_scikit_image(rng):
    first, second = (srgb_to_lab(rng.integers(0, 256, (5000, 3))) for _ in range(2))
    near = first + rng.normal(0, 3, first.shape)
    for other in (second, near):
        found = delta_e_2000(first, other)
        np.testing.assert_allclose(found, deltaE_ciede2000(first, other), rtol=1e-9, atol=1e-9)


def test_ends_of_the_scale(rng):
    colors = srgb_to_lab(rng.integers(0, 256, (100, 3)))
    np.testing.assert_array_equal(delta_e_2000(colors, colors), 0)
    black, white = np.array([[0.0, 0, 0]]), np.array([[100.0, 0, 0]])
    np.testing.assert_allclose(delta_e_2000(black, white), 100, rtol=1e-12)


def test_opposite_hues_have_the_mean_of_both(rng):
    """Half a circle apart, whichever way the hues are rounded: eq. 14 takes their mean as it is."""
    angle, chroma = rng.uniform(0, 180, 500), rng.uniform(5, 60, 500)
    a, b = chroma * np.cos(np.deg2rad(angle)), chroma * np.sin(np.deg2rad(angle))
    first, second = np.stack([0 * a + 50, a, b], -1), np.stack([0 * a + 50, -a, -b], -1)
    stretched = (1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))) * a
    length, hue = np.hypot(stretched, b), np.rad2deg(np.arctan2(b, stretched)) + 90
    terms = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    t = 1 + sum(w * np.cos(np.deg2rad(n * hue + turn)) for w, n, turn in terms)
    expected = 2 * length / (1 + 0.015 * length * t)
    np.testing.assert_allclose(delta_e_2000(first, second), expected, rtol=1e-9)
    np.testing.assert_allclose(delta_e_2000(second, first), expected, rtol=1e-9)
