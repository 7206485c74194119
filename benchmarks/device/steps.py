"""Training steps from cached latents and text states: time, memory and time to compile."""

import time
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from benchmarks.comparison.minimum import least_flops
from benchmarks.comparison.ours import random_batch
from benchmarks.comparison.problem import TOKENS, config_of
from benchmarks.device.problem import GIB, job_of, planned, random_key, random_weights
from benchmarks.device.repeat import device_peak, timed
from benchmarks.report import Row
from ragaf_jax.nets.build import build_model
from ragaf_jax.planning.plan import step_and_shapes
from ragaf_jax.runtime.sharding import make_mesh, put_batch, replicated, state_shardings
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import initial_state
from ragaf_jax.training.step import jitted_step


def step_rows(stage: int, batch: int, tiny: bool) -> Iterator[Row]:
    """One row: training's step on random weights that are created on the device.

    "TFLOP/s" counts the minimum products of a step of the sketch branch, without RAGAF's (0.5 % at
    512 px) and without rematerialisation.
    """
    job = job_of("step", stage, batch, tiny)
    config = config_of(job)
    model, tx, mesh = build_model(config), optimizer(config.train), make_mesh(config)
    step, (_, shapes, _) = step_and_shapes(config)
    shardings, weights = state_shardings(mesh, shapes), model.shapes()

    def begin(key: PRNGKeyArray) -> Any:
        return initial_state(config, model, tx, random_weights(weights, key))

    with jax.set_mesh(mesh):
        # One program, so that no second copy of the weights adds to the peak.
        state = jax.jit(begin, out_shardings=shardings)(random_key())
        key = jax.device_put(jax.random.key(1), replicated(mesh))
        examples = put_batch(mesh, random_batch(config, model))
        start = time.perf_counter()
        # The plan's objective, whose empty text has states.
        compiles = jitted_step(config, model, tx, step.args[-1], shardings, mesh)
        lowered = compiles.lower(key, state, examples)
        traced = time.perf_counter() - start
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
        memory = planned(compiled)
        row: Row = {
            "stage": stage,
            "px": job.image_size,
            "batch": batch,
            "compiled in, s": round(seconds, 1),
            "of which traced, s": round(traced, 1),
            "planned peak, GiB": round(memory.peak / GIB, 2),
            "planned temporaries, GiB": round(memory.temporary / GIB, 2),
        }
        # The plan is recorded even if the batch does not fit.
        yield row
        before, scalars = device_peak(), dict[str, Any]()

        def run() -> None:
            nonlocal state, scalars
            state, scalars = compiled(key, state, examples)
            jax.block_until_ready((state, scalars))

        measured = timed(run, seconds)
    peak = device_peak()
    least = least_flops(model.unet.config, model.control, job.image_size // 8, TOKENS).total
    row |= {
        "step, s": round(measured.median, 5),
        "step, ± %": round(100 * measured.spread, 1),
        "images/s": round(batch / measured.median, 3),
        "TFLOP/s": batch * least / measured.median / 1e12,
        "peak, GiB": None if peak is None else round(peak / GIB, 2),
        "peak before the first step, GiB": None if before is None else round(before / GIB, 2),
        "runs": len(measured.seconds),
        "loss": float(scalars["loss"]),  # checks that it is finite
    }
