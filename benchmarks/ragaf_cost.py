"""What RAGAF adds to a training step: time and FLOPs, by regions, edges and resolution."""

from dataclasses import replace

from benchmarks.problem import Job, config_of
from benchmarks.report import Row
from benchmarks.timing import interleaved
from ragaf_jax.training.plan import flops_of

# (regions, edges) of the padded graphs, one of the regions being the padding.
GRAPHS = ((9, 192), (17, 192), (33, 192), (65, 192), (33, 48), (33, 96), (33, 384), (33, 768))
SIZES = (128, 256, 512)


def time_rows(repeats: int, plain: Job) -> list[Row]:
    """The step `plain` of Stage 1, and Stage 2's for every one of `GRAPHS`, all in turns."""
    jobs = {"without": plain}
    for regions, edges in GRAPHS:
        jobs[f"{regions}, {edges}"] = replace(plain, stage=2, regions=regions, edges=edges)
    # Nine states of Stable Diffusion's size are more than any memory.
    measured = interleaved(jobs, repeats, together=plain.network != "sd15")
    flops = {name: flops_of(config_of(job)) for name, job in jobs.items()}
    return [
        {
            "network": job.network,
            "px": job.image_size,
            "batch": job.batch,
            "dtype": job.dtype,
            "regions": job.regions - 1 if job.stage == 2 else None,
            "edges": job.edges if job.stage == 2 else None,
            "step, s": round(measured[name].median, 4),
            "± %": round(100 * measured[name].spread, 1),
            "time, of the step without": round(
                measured[name].median / measured["without"].median, 3
            ),
            "FLOPs, of the step without": round(flops[name] / flops["without"], 4),
        }
        for name, job in jobs.items()
    ]


def flops_rows() -> list[Row]:
    """Stable Diffusion 1.5 at each of `SIZES`: FLOPs of both stages' steps, traced."""
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
