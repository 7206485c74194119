"""How a step's time and memory grow with batch, resolution and number of devices."""

from dataclasses import replace

from benchmarks.problem import Job
from benchmarks.report import Row, timed_columns
from benchmarks.timing import interleaved

BATCHES, SIZES, DEVICES = (1, 2, 4, 8, 16), (128, 256, 384), (2, 4, 8)


def scaling_rows(repeats: int, network: str, image_size: int, batch: int) -> list[Row]:
    """The step of Stage 1 around one size: each of the three changes while the others stay.

    Forced devices share the same cores: they cost what sharing costs, and nothing is gained.
    """
    middle = Job("ours", "step", network, image_size, batch)
    jobs = [replace(middle, batch=size) for size in BATCHES]
    jobs += [replace(middle, image_size=size) for size in SIZES if size != image_size]
    jobs += [replace(middle, devices=count) for count in DEVICES]
    rows = []
    for job in jobs:
        timed = interleaved({"ours": job}, repeats)["ours"]
        rows.append(
            {
                "network": network,
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
