"""Errors and time of attention at the sizes of Stable Diffusion 1.5, for any kernel.

Inputs are in bfloat16. The error of the output and of each gradient is the largest difference from
plain attention in float64 (on a TPU float32 with exact products), relative to its largest value.
Plain XLA in bfloat16 shows the error of bfloat16 itself.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.device.repeat import timed
from benchmarks.report import Row
from ragaf_jax.nets.attention import attention

# Dependent calls of a kernel per timed program, which make the program's start-up negligible.
CALLS = 20
OUTPUTS = ("output", "dq", "dk", "dv", "dbias")

Form = Callable[..., Float[Array, "b t h d"]]


class Case(NamedTuple):
    """The sizes of one attention.

    Attributes:
      name: its place in the networks.
      batch: examples.
      queries, keys: tokens.
      heads, size: number of heads, and their width.
      biased: with RAGAF's bias per query and key, equal for all heads.
    """

    name: str
    batch: int
    queries: int
    keys: int
    heads: int
    size: int
    biased: bool = False


CASES = (
    Case("self-attention", 4, 4096, 4096, 8, 40),
    Case("cross-attention", 4, 4096, 77, 8, 40),
    Case("cross-attention with bias", 4, 4096, 77, 8, 40, biased=True),
    Case("self-attention", 4, 1024, 1024, 8, 80),
    Case("self-attention", 4, 256, 256, 8, 160),
    Case("self-attention", 4, 64, 64, 8, 160),
    Case("VAE", 4, 4096, 4096, 1, 512),
    Case("cross-attention with bias", 4, 256, 77, 8, 160, biased=True),
)
TINY_CASES = (
    Case("self-attention", 2, 16, 16, 2, 8),
    Case("cross-attention with bias", 2, 16, 5, 2, 8, biased=True),
)


def forms() -> dict[str, Form]:
    """This project's attention, plain XLA and, on a GPU, cuDNN."""
    plain = jax.nn.dot_product_attention
    found: dict[str, Form] = {
        "ours": attention,
        "XLA": functools.partial(plain, implementation="xla"),
    }
    if jax.default_backend() == "gpu":
        found["cuDNN"] = functools.partial(plain, implementation="cudnn")
    return found


def attention_rows(tiny: bool) -> Iterator[Row]:
    """A row for each case and form; "refused" has the error of a form.

    Raises:
      Exception: the first error of "ours", after all rows.
    """
    calls = 2 if tiny else CALLS
    failed: Exception | None = None
    for case in TINY_CASES if tiny else CASES:
        inputs, weights = random_inputs(case)
        exact = reference(inputs, weights)
        for name, form in forms().items():
            row: Row = {
                "attention": case.name,
                "queries": case.queries,
                "keys": case.keys,
                "heads": case.heads,
                "size": case.size,
                "form": name,
                "kernels": None,
                "forward, ms": None,
                "both passes, ms": None,
                **{f"error of {output}": None for output in OUTPUTS},
                "refused": None,
            }
            try:
                row |= measured(form, inputs, weights, exact, calls)
            except Exception as error:  # cuDNN's rules raise several types
                failed = failed or (error if name == "ours" else None)
                row["refused"] = f"{type(error).__name__}: {error}"[:200]
            yield row
    if failed is not None:
        raise failed


def random_inputs(case: Case) -> tuple[tuple[Array, ...], Array]:
    """(q, k, v and the optional bias) and the output's gradient, in bfloat16."""
    b, t, s, h, d = case.batch, case.queries, case.keys, case.heads, case.size
    shapes = [(b, t, h, d), (b, s, h, d), (b, s, h, d), (b, t, h, d)]
    shapes += [(b, 1, t, s)] if case.biased else []
    keys = jax.random.split(jax.random.key(0), len(shapes))
    arrays = [jax.random.normal(*each, jnp.bfloat16) for each in zip(keys, shapes, strict=True)]
    return (*arrays[:3], *arrays[4:]), arrays[3]


def passes(form: Form, inputs: tuple[Array, ...], weights: Array) -> tuple[Array, ...]:
    """(output, gradient of each input) for the output's gradient `weights`."""
    output, backward = jax.vjp(form, *inputs)
    return (output, *backward(weights))


def plain_attention(q: Array, k: Array, v: Array, bias: Array | None = None) -> Array:
    """softmax(q·kᵀ/√d + bias)·v in the arguments' precision."""
    product = functools.partial(jnp.einsum, precision="highest")
    scores = product("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    return product("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v)


def reference(inputs: tuple[Array, ...], weights: Array) -> list[np.ndarray]:
    """The reference of `passes`, one example at a time because it stores the scores."""
    exact = jnp.float32 if jax.default_backend() == "tpu" else jnp.float64
    with jax.enable_x64(exact == jnp.float64):
        wide = [x.astype(exact)[:, None] for x in (*inputs, weights)]
        one = jax.jit(lambda *x: passes(plain_attention, x[:-1], x[-1]))
        results = [one(*example) for example in zip(*wide, strict=True)]
        return [
            np.concatenate([np.asarray(x) for x in each]) for each in zip(*results, strict=True)
        ]


def measured(
    form: Form,
    inputs: tuple[Array, ...],
    weights: Array,
    exact: list[np.ndarray],
    calls: int,
) -> Row:
    """Kernels, errors and times of one form."""
    both = jax.jit(functools.partial(passes, form)).lower(inputs, weights).compile()
    errors = {
        f"error of {name}": float(np.abs(np.asarray(x, np.float64) - y).max() / np.abs(y).max())
        for name, x, y in zip(OUTPUTS, both(inputs, weights), exact, strict=False)
    }

    def forward(inputs: tuple[Array, ...]) -> Array:
        q, *others = inputs
        return jax.lax.fori_loop(0, calls, lambda _, q: form(q, *others), q)

    def backward(inputs: tuple[Array, ...], weights: Array) -> Any:
        def call(_: Any, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
            return passes(form, inputs, weights)[1:]

        return jax.lax.fori_loop(0, calls, call, inputs)

    return {
        "kernels": kernels(both.as_text()),
        "forward, ms": round(milliseconds(forward, inputs) / calls, 4),
        "both passes, ms": round(milliseconds(backward, inputs, weights) / calls, 4),
        **errors,
    }


def milliseconds(function: Callable[..., Any], *args: Any) -> float:
    """Median time of the compiled function."""
    compiled = jax.jit(function)
    return 1e3 * timed(lambda: jax.block_until_ready(compiled(*args))).median


def kernels(text: str) -> str:
    """The libraries' kernels in a compiled program, such as __cudnn$fmhaSoftmax."""
    return ", ".join(sorted(set(re.findall(r'custom_call_target="([^"]+)"', text)))) or "XLA's own"
