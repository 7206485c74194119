"""Counts the FLOPs of a function without running or compiling it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.sharding import AbstractDevice, AbstractMesh, AxisType


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of the matrix products and convolutions in `function(*args)`, 2 per multiply-add.

    Other operations are a small part of these networks. XLA's `cost_analysis` counts the body of a
    loop once, so accumulation would seem to save work. Here each iteration counts (a `while` of
    unknown length once, a `cond` as its most expensive branch).

    Args:
      function: to include the backward pass, already differentiated.
      *args: arrays or their shapes.
    """
    # Traced for a CPU, whose attention is plain JAX: kernels of accelerators hide their products.
    device = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")
    mesh = AbstractMesh((1,), ("device",), (AxisType.Auto,), abstract_device=device)
    shapes = jax.tree.map(  # without devices
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jax.dtypes.result_type(x)), args
    )
    # A mesh of another size can only be replaced after none.
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), jax.sharding.use_abstract_mesh(mesh):
        return _of_jaxpr(jax.make_jaxpr(function)(*shapes).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    # JAX types these as any values; both operations below take arrays.
    operands: Any = [variable.aval for variable in (*equation.invars, *equation.outvars)]
    if name == "dot_general":
        left = operands[0].shape
        (contracted, _), _ = params["dimension_numbers"]
        terms = math.prod(left[axis] for axis in contracted)
        return 2 * terms * math.prod(operands[-1].shape)
    if name == "conv_general_dilated":
        # The zeros of dilated inputs (gradients of strided convolutions) count like other numbers.
        kernel = operands[1].shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        terms = math.prod(kernel) // features
        return 2 * terms * math.prod(operands[-1].shape)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _inner_jaxprs(params: dict[str, Any]) -> list[core.Jaxpr]:
    """The functions among an operation's parameters."""
    values = jax.tree.leaves(params, is_leaf=_is_function)
    found = [value for value in values if _is_function(value)]
    return [x.jaxpr if isinstance(x, core.ClosedJaxpr) else x for x in found]


def _is_function(value: Any) -> bool:
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)
