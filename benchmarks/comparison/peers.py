"""Training steps and sampling against PyTorch's diffusers with the same weights."""

import contextlib
import functools
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.comparison.minimum import least_flops
from benchmarks.comparison.problem import TOKENS, Dtype, Job, config_of
from benchmarks.report import Row
from benchmarks.timing import ROOT, Timed, disagreement, interleaved, timed_columns
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model


class Case(NamedTuple):
    """One measurement; `together` if both peers fit into memory at once."""

    network: str
    image_size: int
    batch: int
    repeats: int
    together: bool = True
    dtype: Dtype = "float32"


# float32 on the CPU, where bfloat16 is slower; bfloat16 on an accelerator. "tiny" is a dry run.
STEPS_CPU = (
    Case("tiny", 64, 2, 2),
    Case("small", 256, 8, 10),
    Case("sd15", 256, 1, 4, together=False),
    Case("sd15", 512, 1, 4, together=False),
)
STEPS_GPU = (
    Case("small", 256, 8, 20, dtype="bfloat16"),
    Case("sd15", 256, 32, 10, together=False, dtype="bfloat16"),
    Case("sd15", 512, 32, 10, together=False, dtype="bfloat16"),
)
SAMPLES_CPU = (Case("tiny", 64, 1, 2), Case("small", 256, 1, 6), Case("small", 256, 4, 4))
SAMPLES_GPU = (
    Case("sd15", 512, 1, 10, dtype="bfloat16"),
    Case("sd15", 512, 4, 5, dtype="bfloat16"),
)


@functools.cache
def on_gpu() -> bool:
    """Whether JAX has a GPU, from a separate process, because a backend would reserve it."""
    ask = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "gpu"


def peers() -> tuple[str, ...]:
    """The available peers: "ours", and "torch" if it is installed."""
    installed = all(
        importlib.util.find_spec(name) for name in ("torch", "diffusers", "transformers")
    )
    return ("ours", "torch") if installed else ("ours",)


@contextlib.contextmanager
def checkpoint(network: str) -> Iterator[str]:
    """A folder with random weights of `network` in diffusers' format; "" without diffusers."""
    if "torch" not in peers():
        yield ""
        return
    with tempfile.TemporaryDirectory() as folder:
        # A separate process, because the measuring process must not import PyTorch.
        write = (
            "import sys; from pathlib import Path; from benchmarks.comparison.torch_peer import "
        )
        write += "save_checkpoint; save_checkpoint(sys.argv[1], Path(sys.argv[2]))"
        command = [sys.executable, "-c", write, network, folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"diffusers could not write weights of {network}: {done.stderr}")
        yield folder


def step_rows(cases: Sequence[Case]) -> list[Row]:
    """Training steps of the sketch branch from cached latents and text states."""
    rows = []
    for case in cases:
        with checkpoint(case.network) as folder:
            job = _job("step", case, folder)
            measured, apart = _measure(job, case)
        model = build_model(config_of(job))
        least = least_flops(model.unet.config, model.control, job.image_size // 8, TOKENS).total
        ours = measured["ours"]
        rate = job.batch * least / ours.median
        rows.append(
            _described(case)
            | _compared(measured, apart)
            | {
                "ours, images/s": round(job.batch / ours.median, 3),
                "least TFLOP an image": round(least / 1e12, 4),
                "ours, TFLOP/s": round(rate / 1e12, 4),
                "ceiling, TFLOP/s": round(ours.about["ceiling"] / 1e12, 4),
                "MFU, %": round(100 * rate / ours.about["ceiling"], 1),
            }
        )
    return rows


def sample_rows(cases: Sequence[Case]) -> list[Row]:
    """20 steps of DPM-Solver++(2M) with guidance, from tokens and sketch to pixels."""
    rows = []
    for case in cases:
        with checkpoint(case.network) as folder:
            measured, apart = _measure(_job("sample", case, folder), case)
        rows.append(_described(case) | _compared(measured, apart))
    return rows


def first_image_rows(cases: Sequence[Case]) -> list[Row]:
    """Seconds from the start of a process to its first images, including compilation."""
    rows = []
    for case in cases:
        with checkpoint(case.network) as folder, tempfile.TemporaryDirectory() as cache:
            job = _job("sample", case, folder)
            cached = {
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            row = _described(case)
            for name in ("ours, compiling", "ours, from the cache"):
                timed = interleaved({"ours": job}, 1, environments={"ours": cached})["ours"]
                row[f"{name}, s"] = round(timed.first, 2)
            if "torch" in peers():
                timed = interleaved({"torch": replace(job, peer="torch")}, 1)["torch"]
                row["torch, s"] = round(timed.first, 2)
            rows.append(row)
    return rows


def _job(task: Literal["step", "sample"], case: Case, folder: str) -> Job:
    return Job("ours", task, case.network, case.image_size, case.batch, case.dtype, folder)


def _measure(job: Job, case: Case) -> tuple[dict[str, Timed], float | None]:
    """Alternating measurements of both peers, and the difference of their predictions."""
    jobs = {name: replace(job, peer=name) for name in peers()}
    apart = None
    if len(jobs) == 2:
        with tempfile.TemporaryDirectory() as answers:
            apart = disagreement([jobs["ours"], jobs["torch"]], Path(answers))
    return interleaved(jobs, case.repeats, case.together), apart


def _described(case: Case) -> Row:
    return {
        "network": case.network,
        "px": case.image_size,
        "batch": case.batch,
        "dtype": case.dtype,
    }


def _compared(measured: dict[str, Timed], apart: float | None) -> Row:
    ours, torch = measured["ours"], measured.get("torch")
    device = ours.about["device"]
    if torch is not None and torch.about["device"] != device:
        raise UserError(
            f"JAX runs on {device} and PyTorch on {torch.about['device']}: their times cannot be "
            "compared; install both for the same device."
        )
    return {"device": device} | (
        timed_columns("ours", ours)
        | timed_columns("torch", torch)
        | {
            "ours / torch": None if torch is None else round(ours.median / torch.median, 3),
            "predictions apart": apart,
        }
    )
