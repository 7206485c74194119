"""The cost of preparing a folder of sketches: time by processes, memory by examples."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
from tqdm import tqdm

from benchmarks.report import Row
from input_pipeline.datasets.openmoji_art import (
    find_drawings,
    read_svg,
    render_image,
    render_lines,
)

DRAWINGS, SIDE = 2000, 256
COUNTS = (1000, 4000, 16000)
REPEATS = 3


def scaling_rows(folder: Path) -> list[Row]:
    """Median seconds of the command for 2,000 sketches at 256 px, by number of processes."""
    root = write_drawings(folder / "drawings", DRAWINGS, SIDE)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(REPEATS):
        for workers, times in seconds.items():
            data = folder / f"scaling-{workers}-{repeat}"
            begin = time.perf_counter()
            run_prepare(root, data, SIDE, workers)
            times.append(time.perf_counter() - begin)
    medians = {workers: sorted(times)[REPEATS // 2] for workers, times in seconds.items()}
    return [
        {
            "processes": workers,
            "seconds": round(median, 1),
            "drawings/s": round(DRAWINGS / median, 1),
            "times as fast": round(medians[1] / median, 2),
            "all runs, s": " ".join(f"{x:.1f}" for x in seconds[workers]),
        }
        for workers, median in medians.items()
    ]


def memory_rows(folder: Path) -> list[Row]:
    """Peak memory of the main process by number of examples at 64 px."""
    rows = []
    source = write_drawings(folder / "small", 500, 64)
    for count in COUNTS:
        root = repeated(source, folder / f"memory-{count}", count)
        peak = run_prepare(root, folder / f"memory-{count}-data", 64, workers=2)
        rows.append({"examples": count, "peak of the main process, MiB": round(peak / 2**20)})
    return rows


def write_drawings(root: Path, count: int, side: int) -> Path:
    """A folder of images, sketches and captions: OpenMoji's, then their mirror images."""
    drawings = find_drawings()
    lines = ["file_name,caption"]
    for name in ("image", "sketch"):
        (root / name).mkdir(parents=True)
    for i in tqdm(range(count), desc="drawing", unit=" drawing"):
        drawing = drawings[i % len(drawings)]
        svg = read_svg(drawing.path)
        page, picture = render_lines(svg, side), render_image(svg, side)[..., ::-1]
        if i >= len(drawings):
            page, picture = page[:, ::-1], picture[:, ::-1]
        cv2.imwrite(str(root / "sketch" / f"{i:05d}.png"), page)
        cv2.imwrite(str(root / "image" / f"{i:05d}.png"), picture)
        lines.append(f'{i:05d}.png,"{drawing.name}"')
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    return root


def repeated(source: Path, root: Path, count: int) -> Path:
    """A folder of `count` images that repeat those of `source` as hard links."""
    lines = ["file_name,caption"]
    for name in ("image", "sketch"):
        (root / name).mkdir(parents=True)
    files = sorted((source / "image").iterdir())
    for i in range(count):
        for name in ("image", "sketch"):
            os.link(source / name / files[i % len(files)].name, root / name / f"{i:05d}.png")
        lines.append(f"{i:05d}.png,drawing {i}")
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    return root


def run_prepare(root: Path, data: Path, size: int, workers: int) -> int:
    """Runs the command; returns the peak memory of its main process in bytes."""
    command = [
        *(sys.executable, "-m", "input_pipeline.prepare", "--dataset=folder", f"--root={root}"),
        *(f"--data_dir={data}", f"--size={size}", f"--workers={workers}"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        # Not by `wait4`, whose peak includes this process's memory at the fork.
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            peak = 1024 * int(found[1])
        time.sleep(0.02)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed")
    return peak
