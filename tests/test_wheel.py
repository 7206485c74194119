"""The wheel, built and installed into an empty environment."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SOURCES = ("configs", "input_pipeline", "ragaf_jax")
FILES = ("LICENSE", "README.md", "main.py", "pyproject.toml", "requirements.txt")

pytestmark = pytest.mark.wheel


def run(*command, cwd):
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the source distribution, and that from a copy: nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=unwanted)
    for name in FILES:
        shutil.copy(ROOT / name, folder / "source" / name)
    run(sys.executable, "-m", "build", "--outdir", folder, folder / "source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_file_of_its_packages(wheel):
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for name in SOURCES for path in (ROOT / name).rglob("*") if path.is_file())
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert there == expected | {"main.py"}


def test_an_empty_environment_with_the_wheel_samples(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-q", "-c", constraints, wheel, cwd=tmp_path)
    where = run(python, "-c", "import main, ragaf_jax; print(ragaf_jax.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path / "env")
    run(
        python,
        "-m",
        "ragaf_jax.sample",
        *(f"--stage{i}={ROOT}/pretrained/openmoji/stage{i}" for i in (1, 2)),
        f"--sketch={ROOT}/docs/images/ping_pong.png",
        "--prompt=ball: large pink",
        "--steps=2",
        "--output=out",
        cwd=tmp_path,
    )
    image = np.asarray(Image.open(tmp_path / "out" / "stage2_output.png"))
    assert image.shape == (64, 64, 3) and image.std() > 0
