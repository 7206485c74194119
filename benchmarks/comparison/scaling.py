"""Scaling of a step's time and memory with batch, resolution and number of devices."""

from dataclasses import replace

from benchmarks.comparison.problem import Job
from benchmarks.report import Row
from benchmarks.timing import interleaved, timed_columns

BATCHES, SIZES, DEVICES = (1, 2, 4, 8, 16), (128, 256, 384), (2, 4, 8)


def scaling_rows(repeats: int, middle: Job, forced: bool) -> list[Row]:
    """Stage 1's step with one of batch, resolution and devices changed at a time.

    Args:
      repeats: timed runs of each.
      middle: the reference step.
      forced: whether one CPU may emulate several devices, which measures only the overhead.
    """
    jobs = [replace(middle, batch=size) for size in BATCHES]
    jobs += [replace(middle, image_size=size) for size in SIZES if size != middle.image_size]
    if forced:
        jobs += [replace(middle, devices=n) for n in DEVICES if middle.batch % n == 0]
    rows = []
    for job in jobs:
        timed = interleaved({"ours": job}, repeats)["ours"]
        rows.append(
            {
                "network": job.network,
                "px": job.image_size,
                "batch": job.batch,
                "devices": job.devices,
                **timed_columns("step", timed),
                "ms an image": round(1000 * timed.median / job.batch, 1),
                "ms a thousand cells": round(
                    1e6 * timed.median / job.batch / (job.image_size // 8) ** 2, 1
                ),
            }
        )
    return rows
