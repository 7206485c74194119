"""Eight visitors at once on the page: does each get its own picture, and does memory grow?

    python -m benchmarks.visitors                           # 3 minutes
    python -m benchmarks.visitors --json=results.json       # the numbers as a file too

Serves the pretrained stages, and lets visitors upload sketches and draw again and again, each with
sketches, words and seeds of its own. What comes back is compared, to the bit, with what the
pipeline draws here. Memory is the server's resident set: after the visitors' first pictures, at
most, and when they have left.
It needs the page's extra: pip install -e '.[demo]'
"""

import contextlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from absl import flags, logging
from gradio_client import Client, handle_file
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from benchmarks.machine import cpu_model, versions
from benchmarks.report import table, write_json
from benchmarks.timing import ROOT
from ragaf_jax.demo.generation import SHOWN
from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.figures.lettering import enlarge
from ragaf_jax.palette import PALETTE
from ragaf_jax.runtime.compilation_cache import keep_compiled
from ragaf_jax.sampling.pipeline import Pipeline

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_integer("visitors", 8, "How many at once.", lower_bound=1)
    flags.DEFINE_float("minutes", 2, "How long they stay.", lower_bound=0)
    flags.DEFINE_string("json", None, "File that the numbers are written to.")


STAGES = [ROOT / "pretrained/openmoji" / name for name in ("stage1", "stage2")]
STEPS = 4
READY = 180  # s that the server may take to begin
REST = 20  # s after the last picture
ASKED = 3  # different pictures of each visitor


class Asked(NamedTuple):
    """One picture that a visitor asks for, and what it is to be."""

    sketch: Path
    prompt: str
    seed: int
    expected: UInt8[np.ndarray, "s s 3"]


@contextlib.contextmanager
def served(log: Path) -> Iterator[tuple[str, int]]:
    """The page of the pretrained stages: its address, and the number of its process."""
    stages = [f"--stage{i}={workdir}" for i, workdir in enumerate(STAGES, 1)]
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "ragaf_jax.demo", *stages, "--port=0"],
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
    try:
        for _ in range(READY):
            if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
                yield found[0], server.pid
                return
            if server.poll() is not None:
                break
            time.sleep(1)
        raise UserError(f"The page did not begin: {log.read_text()}")
    finally:
        server.terminate()
        server.wait(30)


def memory(process: int) -> float:
    """Resident memory, MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024


def requests_of(visitor: int, pipeline: Pipeline, folder: Path) -> list[Asked]:
    """What a visitor asks for, in turns."""
    rng = np.random.default_rng(visitor)
    asked = []
    for turn in range(ASKED):
        page = np.full((256, 256), 255, np.uint8)
        for _ in range(3):
            centre, radius = rng.integers(50, 206, 2), rng.integers(20, 50)
            cv2.circle(page, centre.tolist(), int(radius), 0, 4)
        sketch = folder / f"{visitor}-{turn}.png"
        Image.fromarray(page).save(sketch)
        prompt = f"ball: large {rng.choice(PALETTE)} in the middle"
        seed = 100 * visitor + turn
        picture = pipeline(sketch, prompt, seed=seed, steps=STEPS).images[0]
        asked.append(Asked(sketch, prompt, seed, enlarge(picture, SHOWN)))
    return asked


def visit(address: str, asked: list[Asked], until: float, count: tqdm) -> list[bool]:
    """Draws until then, and once at least; whether each picture was the visitor's own."""
    client, right = Client(address, verbose=False), list[bool]()
    while not right or time.monotonic() < until:
        one = asked[len(right) % len(asked)]
        client.predict(handle_file(one.sketch), api_name="/upload")
        _, images, *_ = client.predict(one.prompt, "", one.seed, 1, STEPS, api_name="/generate")
        shown = np.asarray(Image.open(images[0]["image"]).convert("RGB"))
        right.append(np.array_equal(shown, one.expected))
        count.update()
    client.close()
    return right


def visit_together(
    address: str, asked: list[list[Asked]], until: float, count: tqdm
) -> list[list[bool]]:
    """`visit` by all at once."""
    with ThreadPoolExecutor(len(asked)) as pool:
        visits = [pool.submit(visit, address, one, until, count) for one in asked]
        return [done.result() for done in visits]


def main(argv: list[str]) -> None:
    """Measures and prints."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline = Pipeline.restore(*STAGES)
        asked = [
            requests_of(visitor, pipeline, folder)
            for visitor in tqdm(range(FLAGS.visitors), "expected")
        ]
        with served(folder / "log") as (address, server), tqdm(desc="pictures") as count:
            visit_together(address, asked, 0, count)
            before = most = memory(server)
            over = threading.Event()

            def watch() -> None:
                nonlocal most
                while not over.wait(0.2):
                    most = max(most, memory(server))

            watcher = threading.Thread(target=watch)
            watcher.start()
            until = time.monotonic() + 60 * FLAGS.minutes
            right = visit_together(address, asked, until, count)
            over.set()
            watcher.join()
            time.sleep(REST)
            after = memory(server)
    row = {
        "visitors": FLAGS.visitors,
        "pictures": sum(map(len, right)),
        "not as expected": sum(not one for of_visitor in right for one in of_visitor),
        "memory before, MiB": round(before),
        "at most": round(most),
        "after": round(after),
    }
    print(table([row]))
    if FLAGS.json:
        about = {"machine": cpu_model(), "versions": versions("jax", "gradio")}
        write_json(Path(FLAGS.json), about | {"minutes": FLAGS.minutes, "rows": [row]})
    if row["not as expected"]:
        raise UserError(
            f"{row['not as expected']} of {row['pictures']} pictures were not the visitor's own."
        )


if __name__ == "__main__":
    define_flags()
    run_cli(main)
