"""Memory and FLOPs of Stable Diffusion's compiled steps, without allocation."""

from benchmarks.comparison.minimum import least_flops
from benchmarks.comparison.problem import TOKENS, Job, config_of
from benchmarks.report import Row
from ragaf_jax.nets.build import build_model
from ragaf_jax.planning.plan import compiled_plan, own_setting

# (stage, batch, remat) at 512 px, latents and text states cached.
STEPS = (
    (1, 4, "none"),
    (1, 4, "pointwise"),
    (1, 4, "blocks"),
    (2, 4, "none"),
    (2, 4, "pointwise"),
)


def memory_rows() -> list[Row]:
    """A row for each of `STEPS`: peak memory and FLOPs against the minimum."""
    rows = []
    for stage, batch, remat in STEPS:
        job = Job("ours", "step", "sd15", 512, batch, "bfloat16", stage=stage, remat=remat)
        config = config_of(job)
        config.memory_budget_gib = 16.0  # selects the memory-minimal order of operations
        model, plan = build_model(config), compiled_plan(config, own_setting(config))
        least = least_flops(model.unet.config, model.control, job.image_size // 8, TOKENS).total
        rows.append(
            {
                "stage": stage,
                "px": job.image_size,
                "batch": batch,
                "remat": remat,
                "state GiB": round(plan.account.argument_bytes / 2**30, 2),
                "peak GiB": round(plan.account.peak_bytes / 2**30, 2),
                "TFLOP an image": round(plan.flops / 1e12, 4),
                "least TFLOP an image": round(least / 1e12, 4),
                "of the least": round(plan.flops / least, 3),
                "compiled in, s": round(plan.account.seconds),
            }
        )
    return rows
