"""Several processes, on one or more machines, that train one model together."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ragaf_jax.errors import UserError
from ragaf_jax.folders import alone_in


def join(
    coordinator: str | None = None, process_id: int | None = None, process_count: int | None = None
) -> None:
    """Connects this process with the others of its run; call it before JAX initialises devices.

    Args:
      coordinator: address of the first process, "host:port"; None: from the cluster, which may be
        SLURM, Open MPI, a TPU pod or Kubernetes.
      process_id, process_count: 0 … process_count − 1, and their number; None likewise.

    Raises:
      UserError: the other processes are unknown or cannot be reached.
    """
    # CPUs have no collectives otherwise.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, process_count, process_id)
    except (ValueError, TypeError, RuntimeError) as problem:
        reason = str(problem).partition("\n")[0]
        raise UserError(
            f"This process cannot join the others of its run ({reason}); "
            "start it by SLURM, MPI or on a TPU pod with --distributed, or give --coordinator, "
            "--process_id and --process_count, with the same coordinator and count for all."
        ) from problem


@contextlib.contextmanager
def only_training_in(workdir: Path) -> Iterator[None]:
    """Refuses a second run in a workdir while one is training there.

    Raises:
      UserError: in all processes of the second run.
    """
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(alone_in(workdir, "training", "--workdir"))
            except UserError as error:
                refusal = str(error)
        if (refusal := agreed(refusal)) is not None:
            raise UserError(refusal)
        yield


def agreed(value: Any) -> Any:
    """The first process's value, in all processes, which must call this together.

    Args:
      value: JSON-able, of at most some thousand characters.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode().ljust(4096), np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))))
