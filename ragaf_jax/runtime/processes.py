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
    """Connects this process with the others of its run; before anything else asks for devices.

    Args:
      coordinator: address of the first process, "host:port"; None: as the cluster says, which may
        be SLURM, Open MPI, a TPU pod or Kubernetes.
      process_id: 0 … process_count − 1; None likewise.
      process_count: None likewise.

    Raises:
      UserError: nothing says who the others are, or they cannot be reached.
    """
    # Without it, processes on CPUs have no way to add up what they computed.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, process_count, process_id)
    except (ValueError, TypeError, RuntimeError) as problem:
        reason = str(problem).partition("\n")[0]
        raise UserError(
            f"This process cannot join the others of its run ({reason}); "
            "start it by SLURM, MPI or on a TPU pod with --distributed, or give --coordinator, "
            "--process_id and --process_count, the same coordinator and count to all."
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
    """The first process's value, for what each would find out by itself and all must do alike.

    All processes must call it together.

    Args:
      value: JSON-able, of at most some thousand characters.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode().ljust(4096), np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))))
