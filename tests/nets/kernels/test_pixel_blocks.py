"""The sketch's convolutions on blocks of pixels are those on pixels, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.nets import control
from ragaf_jax.nets.control import ConditioningEmbedding


def shapes(platform, monkeypatch, channels):
    """Of the inputs of the convolutions, as traced for a platform."""
    monkeypatch.setattr(control, "traced_device", lambda: (platform, ""))
    net, sketch = ConditioningEmbedding(5, channels), jnp.zeros((2, 24, 16, 3))
    jaxpr = jax.make_jaxpr(lambda: net.init_with_output(jax.random.key(0), sketch)[0])()
    found = [x for x in jaxpr.eqns if x.primitive.name == "conv_general_dilated"]
    return [x.invars[0].aval.shape[1:] for x in found]


@pytest.mark.parametrize("channels", [(4, 3), (4, 6, 5, 7)])
def test_blocks_compute_what_pixels_do(rng, monkeypatch, channels):
    side = 4 << (len(channels) - 1)
    sketch = jnp.asarray(rng.uniform(0, 1, (2, side, 3 * side // 2, 3)), jnp.float32)
    net = ConditioningEmbedding(5, channels)
    drawn = jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape) / np.sqrt(x.size / x.shape[-1] + 1)),
        jax.eval_shape(net.init, jax.random.key(0), sketch),
    )
    weight = jnp.asarray(rng.standard_normal((2, 4, 6, 5)))

    def loss(params, sketch):
        out = net.apply(params, sketch)
        return (out * weight).sum(), out

    results = []
    for platform in ("gpu", "tpu"):
        monkeypatch.setattr(control, "traced_device", lambda platform=platform: (platform, ""))
        results.append(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(drawn, sketch))
    expected, found = results
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()),
        found,
        expected,
    )


def test_only_tpus_read_few_channels_in_blocks(monkeypatch):
    pixels = [(24, 16, 3), (24, 16, 8), (24, 16, 8), (12, 8, 6), (12, 8, 6), (6, 4, 7)]
    assert shapes("gpu", monkeypatch, (8, 6, 7)) == pixels
    assert shapes("tpu", monkeypatch, (128, 6, 7))[0] == pixels[0]
    blocks = [(6, 4, 48), (6, 4, 128), (6, 4, 128), (6, 4, 24), (6, 4, 24), (6, 4, 7)]
    assert shapes("tpu", monkeypatch, (8, 6, 7)) == blocks
