"""Several processes, of one or more machines, that train one model together."""

import jax

from ragaf_jax.errors import UserError


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
        raise UserError(
            f"This process cannot join the others of its run ({str(problem).splitlines()[0]}); "
            "start it by SLURM, MPI or on a TPU pod with --distributed, or give --coordinator, "
            "--process_id and --process_count, the same coordinator and count to all."
        ) from problem
