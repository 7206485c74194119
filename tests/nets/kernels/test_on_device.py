"""The kernels where they run: on the CPU here; on a GPU or TPU with its marker."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_reference import inputs, normal, reference

from ragaf_jax.nets.attention import attention

# Examples, queries, keys, heads, numbers of a head, leading axes of the bias.
CASES = {
    "self-attention": (2, 256, 256, 8, 40, None),
    "prompt": (2, 256, 77, 8, 40, None),
    "prompt with RAGAF's bias": (2, 256, 77, 8, 40, (2, 1)),
    "wide heads": (2, 64, 64, 8, 160, None),
    "autoencoder": (1, 256, 256, 1, 512, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "platform",
    ["cpu", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("gpu", "tpu"))],
)
def test_attention_and_its_gradients_have_the_errors_of_bfloat16(platform, case, rng):
    found = jax.default_backend()
    assert found == platform, f"JAX computes on {found}; set JAX_PLATFORMS for {platform}"
    *arrays, bias = inputs(rng, *CASES[case])
    arrays = [jnp.bfloat16(x) for x in (*arrays, normal(rng, *arrays[0].shape))]
    q, k, v, g = arrays
    expected = reference(*(np.asarray(x, np.float32) for x in (q, k, v)), bias, np.float32(g))
    given = [q, k, v] if bias is None else [q, k, v, jnp.asarray(bias)]
    out, pullback = jax.vjp(jax.jit(attention), *given)
    pairs = [(out, expected[0]), *zip(pullback(g), expected[1], strict=True)]
    for number, exact in pairs:
        error = np.abs(np.float64(number) - exact).max() / np.abs(exact).max()
        assert error < 2**-6  # bfloat16 keeps 8 bits
