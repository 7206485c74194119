"""Memory traffic of forms of group normalisation, compiled for accelerators.

    python -m benchmarks.group_norm v5e-1    # pip install -e '.[plan-tpu]'
    python -m benchmarks.group_norm h200     # pip install -e '.[plan-cuda]'

Two minutes each, for any target of `main.py --mode=plan`, with the same byte counts.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.command import end_with_sentence
from ragaf_jax.nets.layers import GroupNorm
from ragaf_jax.planning.compiled import account
from ragaf_jax.runtime.targets import open_target

GROUPS, EPSILON = 32, 1e-5
SHAPES = ((4, 32, 32, 320), (4, 64, 64, 320))


def statistics(form: str) -> Callable[..., Array]:
    """GroupNorm with SiLU; the variance is "plain" E[x²] − E[x]², "shifted" or in "two passes"."""

    def norm(x: Array, scale: Array, bias: Array) -> Array:
        b, c = x.shape[0], x.shape[-1]
        pixels = x.reshape(b, -1, c).astype(jnp.float32)

        def mean(y: Array) -> Array:
            y = y.sum(1).reshape(b, GROUPS, -1).sum(-1) / (y.shape[1] * (c // GROUPS))
            return jnp.repeat(y, c // GROUPS, axis=-1)

        shift = jnp.zeros((b, c))
        if form == "shifted":
            shift = jax.lax.stop_gradient(mean(pixels[:, :: max(1, pixels.shape[1] // 16)]))
        centre = mean(pixels - shift[:, None])
        if form == "two passes":
            variance = mean(jnp.square(pixels - centre[:, None]))
        else:
            variance = mean(jnp.square(pixels - shift[:, None])) - jnp.square(centre)
        slope = jax.lax.rsqrt(jnp.maximum(variance, 0) + EPSILON) * scale[None]
        y = pixels * slope[:, None] + (bias[None] - (shift + centre) * slope)[:, None]
        return jax.nn.silu(y).reshape(x.shape).astype(x.dtype)

    return norm


def ours(x: Array, scale: Array, bias: Array) -> Array:
    """`GroupNorm` of the networks."""
    norm = GroupNorm(GROUPS, EPSILON, silu=True, dtype=x.dtype)
    out = norm.apply({"params": {"scale": scale, "bias": bias}}, x)
    assert isinstance(out, jax.Array)
    return out


def gradients(
    form: Callable[..., Array], x: Array, scale: Array, bias: Array, g: Array
) -> tuple[Array, ...]:
    """Gradients of x, scale and bias for the output's gradient `g`."""
    return jax.vjp(form, x, scale, bias)[1](g)


def main() -> None:
    """Prints a row for each shape, dtype and form."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target")
    target = open_target(parser.parse_args().target)
    mesh = jax.sharding.Mesh(
        target.devices[:1], ("device",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    forms = {form: statistics(form) for form in ("plain", "shifted", "two passes")}
    forms["ours"] = ours
    print("| shape | dtype | form | forward, MB | instructions | gradient, MB | instructions |")
    print("|---|---|---|--:|--:|--:|--:|")
    for shape in SHAPES:
        for dtype in ("bfloat16", "float32"):
            x = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
            row = jax.ShapeDtypeStruct(shape[-1:], jnp.float32, sharding=place)
            for name, form in forms.items():
                cells = []
                backward = functools.partial(gradients, form)
                for function, args in ((form, (x, row, row)), (backward, (x, row, row, x))):
                    jitted = jax.jit(function, compiler_options=target.compiler_options)
                    found = account(jitted, args, mesh, target)
                    cells += [f"{(found.moved_bytes or 0) / 1e6:.1f}", str(found.instructions)]
                print(f"| {shape} | {dtype} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    end_with_sentence(main)
