"""Eight simultaneous visitors of the page: correct images and memory growth.

    python -m benchmarks.visitors                           # 3 minutes
    python -m benchmarks.visitors --json=results.json       # also writes JSON

Serves the pretrained stages to visitors with different sketches, prompts and seeds. Their images
are compared bit by bit with the pipeline's. Memory is the server's resident set: after the first
images, at most, and after the visits. Needs the page's extra: pip install -e '.[demo]'
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
    flags.DEFINE_integer("visitors", 8, "Number of visitors.", lower_bound=1)
    flags.DEFINE_float("minutes", 2, "Duration.", lower_bound=0)
    flags.DEFINE_string("json", None, "Output file.")


STAGES = [ROOT / "pretrained/openmoji" / name for name in ("stage1", "stage2")]
STEPS = 4
READY = 180  # s, limit of the server's start
REST = 20  # s after the last image
REQUESTS = 3  # different images per visitor


class ImageRequest(NamedTuple):
    """A visitor's request with the expected image."""

    sketch: Path
    prompt: str
    seed: int
    expected: UInt8[np.ndarray, "s s 3"]


@contextlib.contextmanager
def served(log: Path) -> Iterator[tuple[str, int]]:
    """The page of the pretrained stages: its address and process id."""
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
        raise UserError(f"The page did not start: {log.read_text()}")
    finally:
        server.terminate()
        server.wait(30)


def memory(process: int) -> float:
    """Resident memory, MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024


def requests_of(visitor: int, pipeline: Pipeline, folder: Path) -> list[ImageRequest]:
    """A visitor's requests."""
    rng = np.random.default_rng(visitor)
    requests = []
    for turn in range(REQUESTS):
        page = np.full((256, 256), 255, np.uint8)
        for _ in range(3):
            centre, radius = rng.integers(50, 206, 2), rng.integers(20, 50)
            cv2.circle(page, centre.tolist(), int(radius), 0, 4)
        sketch = folder / f"{visitor}-{turn}.png"
        Image.fromarray(page).save(sketch)
        prompt = f"ball: large {rng.choice(PALETTE)} in the middle"
        seed = 100 * visitor + turn
        image = pipeline(sketch, prompt, seed=seed, steps=STEPS).images[0]
        requests.append(ImageRequest(sketch, prompt, seed, enlarge(image, SHOWN)))
    return requests


def visit(address: str, requests: list[ImageRequest], until: float, count: tqdm) -> list[bool]:
    """Sends requests until a time, at least one; whether each image is as expected."""
    client, right = Client(address, verbose=False), list[bool]()
    while not right or time.monotonic() < until:
        one = requests[len(right) % len(requests)]
        client.predict(handle_file(one.sketch), api_name="/upload")
        _, images, *_ = client.predict(one.prompt, "", one.seed, 1, STEPS, api_name="/generate")
        shown = np.asarray(Image.open(images[0]["image"]).convert("RGB"))
        right.append(np.array_equal(shown, one.expected))
        count.update()
    client.close()
    return right


def visit_together(
    address: str, requests: list[list[ImageRequest]], until: float, count: tqdm
) -> list[list[bool]]:
    """Simultaneous `visit`s."""
    with ThreadPoolExecutor(len(requests)) as pool:
        visits = [pool.submit(visit, address, one, until, count) for one in requests]
        return [done.result() for done in visits]


def main(argv: list[str]) -> None:
    """Measures and prints."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline = Pipeline.restore(*STAGES)
        requests = [
            requests_of(visitor, pipeline, folder)
            for visitor in tqdm(range(FLAGS.visitors), "expected")
        ]
        with served(folder / "log") as (address, server), tqdm(desc="pictures") as count:
            visit_together(address, requests, 0, count)
            before = most = memory(server)
            over = threading.Event()

            def watch() -> None:
                nonlocal most
                while not over.wait(0.2):
                    most = max(most, memory(server))

            watcher = threading.Thread(target=watch)
            watcher.start()
            until = time.monotonic() + 60 * FLAGS.minutes
            right = visit_together(address, requests, until, count)
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
            f"{row['not as expected']} of {row['pictures']} images differ from the pipeline's."
        )


if __name__ == "__main__":
    define_flags()
    run_cli(main)
