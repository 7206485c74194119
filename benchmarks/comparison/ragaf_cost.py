"""RAGAF's share of a training step: time and FLOPs by regions, edges and resolution."""

from dataclasses import replace

from benchmarks.comparison.problem import Job, config_of
from benchmarks.report import Row
from benchmarks.timing import beside
from ragaf_jax.planning.plan import flops_of

# (regions, edges) of the padded graphs, including one padding region.
GRAPHS = ((9, 192), (17, 192), (33, 192), (65, 192), (33, 48), (33, 96), (33, 384), (33, 768))
SIZES = (128, 256, 512)


def time_rows(repeats: int, plain: Job) -> list[Row]:
    """Stage 2's step for each of `GRAPHS`, alternating with the step `plain` of Stage 1."""
    jobs = {
        f"{regions - 1} regions, {edges} edges": replace(
            plain, stage=2, regions=regions, edges=edges
        )
        for regions, edges in GRAPHS
    }
    least = flops_of(config_of(plain))
    rows = []
    for name, (measured, without) in beside(plain, jobs, repeats).items():
        job = jobs[name]
        rows.append(
            {
                "network": job.network,
                "px": job.image_size,
                "batch": job.batch,
                "dtype": job.dtype,
                "regions": job.regions - 1,
                "edges": job.edges,
                "step, s": round(measured.median, 4),
                "± %": round(100 * measured.spread, 1),
                "without, s": round(without.median, 4),
                "of the step without": round(measured.median / without.median, 3),
                "FLOPs, of the step without": round(flops_of(config_of(job)) / least, 4),
            }
        )
    return rows


def flops_rows() -> list[Row]:
    """Traced FLOPs of both stages' steps of Stable Diffusion 1.5 at each of `SIZES`."""
    rows = []
    for size in SIZES:
        plain = Job("ours", "step", "sd15", size, 4, "bfloat16")
        without, with_ragaf = (flops_of(config_of(replace(plain, stage=stage))) for stage in (1, 2))
        rows.append(
            {
                "px": size,
                "without, TFLOP an image": round(without / 1e12, 4),
                "with 32 regions, TFLOP an image": round(with_ragaf / 1e12, 4),
                "RAGAF's share": f"{with_ragaf / without - 1:.2%}",
            }
        )
    return rows
