"""Sampling of one stage, from tokens and sketch to pixels, with bfloat16 weights."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from benchmarks.comparison.ours import random_batch
from benchmarks.comparison.problem import STEPS, config_of
from benchmarks.device.problem import GIB, job_of, random_key, random_weights
from benchmarks.device.repeat import device_peak, timed
from benchmarks.report import Row
from ragaf_jax.nets.build import build_model
from ragaf_jax.sampling.loop import StageRun, sample_stages
from ragaf_jax.sampling.sampling_config import sampling_config_of, scales_of
from ragaf_jax.sampling.stage_sampler import batch_keys, make_stage_sampler
from ragaf_jax.tokenizer import Tokenizer


def sample_rows(stage: int, batch: int, tiny: bool) -> Iterator[Row]:
    """One row: 20 steps of the sampler with guidance from pure noise, then the decoder."""
    job = job_of("sample", stage, batch, tiny)
    config = config_of(job)
    model, sampling = build_model(config), sampling_config_of(config, Tokenizer.train([""]))
    shapes = model.shapes()

    def make(key: PRNGKeyArray) -> Any:
        params = random_weights(shapes, key)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(job.dtype)), params)

    params = jax.jit(make)(random_key())
    examples = jax.device_put(random_batch(config, model)._replace(image=None))
    scales = scales_of(config.sample.to_dict())
    sampler = make_stage_sampler(model, sampling)
    run = StageRun(stage, sampler, params, batch_keys(jax.random.key(0), batch))

    def sample() -> None:
        *_, _ = sample_stages([run], examples, scales, STEPS)

    start = time.perf_counter()
    sample()
    seconds = time.perf_counter() - start
    row: Row = {
        "stage": stage,
        "px": job.image_size,
        "batch": batch,
        "steps": STEPS,
        "first run, s": round(seconds, 1),
    }
    yield row
    measured = timed(sample, seconds)
    peak = device_peak()
    row |= {
        "latency, s": round(measured.median, 4),
        "latency, ± %": round(100 * measured.spread, 1),
        "images/s": round(batch / measured.median, 3),
        "peak, GiB": None if peak is None else round(peak / GIB, 2),
        "runs": len(measured.seconds),
    }
