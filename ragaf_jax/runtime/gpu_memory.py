"""The share of a GPU's memory that a process takes."""

import os
from collections.abc import Mapping, MutableMapping

from ragaf_jax.errors import UserError

# JAX's default leaves a quarter of a GPU unused. CUDA, cuDNN, NCCL and compiled programs need 0.5
# to 1.5 GiB beside the pool.
SHARE = 0.92
JAX_SHARE = 0.75

_FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the latter is older
_OTHERS = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR")


def raise_share(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets JAX take `SHARE` of each GPU unless the user has configured JAX's allocator.

    Call it before JAX initialises devices; without an NVIDIA GPU it has no effect.
    """
    if not any(environment.get(name) for name in (*_FRACTIONS, *_OTHERS)):
        environment[_FRACTIONS[0]] = str(SHARE)


def share(environment: Mapping[str, str] = os.environ) -> float:
    """The fraction of a GPU's memory that a command may use, after `raise_share`.

    Raises:
      UserError: the user's value is not a finite number above 0.
    """
    for name in _FRACTIONS:
        if given := environment.get(name):
            try:
                value = float(given)
            except ValueError:
                value = 0.0
            if not 0 < value < float("inf"):
                raise UserError(
                    f"{name} is {given!r}; give the fraction of a GPU's memory that a process may "
                    f"use, such as {SHARE}, or unset it."
                )
            return value
    return JAX_SHARE if any(environment.get(name) for name in _OTHERS) else SHARE
