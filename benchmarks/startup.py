"""Time from a command's start to its first step or image, with an empty and a filled cache.

    python -m benchmarks.startup                       # 20 minutes on 2 cores
    python -m benchmarks.startup --json=results.json   # also writes JSON

The quickstart's two stages in a new workdir until the first step is logged, and `ragaf_jax.sample`
until its images are written. The first start has an empty compilation cache, the second the first
one's. Prints Markdown. The machine should be otherwise idle.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from absl import flags
from PIL import Image, ImageDraw
from tqdm import tqdm

from benchmarks.machine import cpu_model, versions
from benchmarks.report import Row, table, write_json
from benchmarks.timing import ROOT
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from ragaf_jax.errors import UserError, run_cli

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_integer("runs", 3, "Pairs of starts; results are medians.", lower_bound=1)
    flags.DEFINE_string("json", None, "Output file.")


Environment = Mapping[str, str]


def first_step(stage: int, folder: Path, environment: Environment) -> float:
    """Seconds until a training run logs its first step; the run is then stopped.

    Args:
      stage: 1 or 2; Stage 2 starts from folder/stage1.
      folder: contains the data; receives the checkpoint in stage1 or stage2.
      environment: of the process.
    """
    workdir = folder / f"stage{stage}"
    shutil.rmtree(workdir, ignore_errors=True)
    command = [
        *(sys.executable, "main.py", f"--config=configs/stage{stage}.py:quickstart"),
        *(f"--workdir={workdir}", f"--config.data.dir={folder / 'data'}"),
    ]
    if stage == 2:
        command.append(f"--config.stage1={folder / 'stage1'}")
    log = workdir / "logs" / "metrics.jsonl"
    with (folder / "output").open("w") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output)
        while not (log.exists() and "time/first_step" in log.read_text()):
            if process.poll() is not None:
                raise UserError(f"Stage {stage} made no step: {(folder / 'output').read_text()}")
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
        process.terminate()  # it saves this step
        process.wait()
    return seconds


def first_picture(folder: Path, environment: Environment) -> float:
    """Seconds until `ragaf_jax.sample` has sampled both stages of `folder`."""
    sketch = folder / "sketch.png"
    page = Image.new("L", (256, 256), 255)
    ImageDraw.Draw(page).ellipse((40, 60, 200, 220), outline=0, width=5)
    page.save(sketch)
    command = [
        *(sys.executable, "-m", "ragaf_jax.sample", f"--sketch={sketch}", "--prompt=a ball: red"),
        *(f"--{stage}={folder / stage}" for stage in ("stage1", "stage2")),
        f"--output={folder / 'pictures'}",
    ]
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"Sampling failed: {done.stderr}")
    return time.perf_counter() - begin


def row(name: str, start: Callable[[Path, Environment], float], folder: Path, runs: int) -> Row:
    """Median seconds of a command's first and second starts."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    own["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    first, second = [], []
    # An uncounted first start writes Python's bytecode and the checkpoint for other commands.
    for run in tqdm(range(runs + 1), desc=name, unit=" pair"):
        with tempfile.TemporaryDirectory() as cache:
            environment = own | {"JAX_COMPILATION_CACHE_DIR": cache}
            seconds = start(folder, environment)
            if run:
                first.append(seconds)
                second.append(start(folder, environment))
    one, two = statistics.median(first), statistics.median(second)
    return {
        "command": name,
        "first start, s": round(one, 1),
        "second start, s": round(two, 1),
        "ratio": round(two / one, 2),
    }


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    starts: dict[str, Callable[[Path, Environment], float]] = {
        "stage 1, to the first step": lambda *given: first_step(1, *given),
        "stage 2, to the first step": lambda *given: first_step(2, *given),
        "sample, to the first picture": first_picture,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare("openmoji/recolor", folder / "data", Options(64, limit=64), Execution(workers=2))
        rows = [row(what, start, folder, FLAGS.runs) for what, start in starts.items()]
    results = {"machine": cpu_model(), "versions": versions("jax", "jaxlib"), "startup": rows}
    print(f"{results['machine']}\n\n{table(rows)}")
    if FLAGS.json:
        write_json(Path(FLAGS.json), results)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
