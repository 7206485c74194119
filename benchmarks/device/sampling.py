"""Sampling of one stage, from tokens and sketch to pixels, with bfloat16 weights."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from benchmarks.device.problem import GIB, job_of, planned, random_key, random_weights
from benchmarks.device.repeat import device_peak, timed
from benchmarks.ours import random_batch
from benchmarks.problem import STEPS, config_of
from benchmarks.report import Row
from ragaf_jax.nets.build import build_model
from ragaf_jax.sampling.process import process_of
from ragaf_jax.sampling.stages import make_draw_one, settings_of
from ragaf_jax.tokenizer import Tokenizer


def sample_rows(stage: int, batch: int, tiny: bool) -> Iterator[Row]:
    """One row: 20 steps of the sampler with guidance from pure noise, then the decoder."""
    job = job_of("sample", stage, batch, tiny)
    config = config_of(job)
    model, process = build_model(config), process_of(config, Tokenizer.train([""]))
    shapes = model.shapes()

    def make(key: PRNGKeyArray) -> Any:
        params = random_weights(shapes, key)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(job.dtype)), params)

    params = jax.jit(make)(random_key())
    examples = jax.device_put(random_batch(config, model)._replace(image=None))
    inputs = jax.random.key(0), settings_of(config.sample.to_dict()), process.course(STEPS)
    draw: Any = make_draw_one(model, process)  # jitted, which its type leaves out
    start = time.perf_counter()
    compiled = draw.lower(params, examples, *inputs).compile()
    seconds = time.perf_counter() - start
    row: Row = {
        "stage": stage,
        "px": job.image_size,
        "batch": batch,
        "steps": STEPS,
        "compiled in, s": round(seconds, 1),
        "planned peak, GiB": round(planned(compiled).peak / GIB, 2),
    }
    yield row
    measured = timed(lambda: np.asarray(compiled(params, examples, *inputs)[0]), seconds)
    peak = device_peak()
    row |= {
        "latency, s": round(measured.median, 4),
        "latency, ± %": round(100 * measured.spread, 1),
        "images/s": round(batch / measured.median, 3),
        "peak, GiB": None if peak is None else round(peak / GIB, 2),
        "runs": len(measured.seconds),
    }
