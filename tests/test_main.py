"""What a user can get wrong on the command line ends in one sentence and status 1."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_here

ROOT = Path(__file__).parents[1]
STAGE1, STAGE2 = "--config=configs/stage1.py:quickstart", "--config=configs/stage2.py:quickstart"
SD = "--config=configs/stage1.py:openmoji_sd"


def fail(*command):
    """Runs a command that must fail; gives the one line that it says."""
    done = run_here(*command)
    assert done.status == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_command_that_fails_ends_with_status_1():
    """In a process of its own, as a shell sees it."""
    command = [sys.executable, "main.py", "--workdir=run", "--config=configs/stage9.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no configuration file of the name")
    assert not (ROOT / "run").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((STAGE1, "--config.train.stpes=3"), "stpes"),
        ((STAGE1, "--config.train.steps=many"), "many"),
        (("--config=configs/stage1.py:imagenet",), "imagenet"),
        ((STAGE1, "--mode=paint"), "paint"),
        ((STAGE1, "--config.data.dir=nowhere"), "python -m input_pipeline.prepare"),
        ((STAGE2, "--mode=evaluate"), "config.stage1=''; use configs/stage2.py with"),
        ((STAGE2, "--mode=evaluate", "--config.stage1=nowhere"), "holds no checkpoint"),
        ((STAGE1, "--config.validate_every=0"), "config.validate_every is 0; it must be 1 or more"),
        (
            (SD, "--config.init.checkpoint=nowhere"),
            "There is no folder or file 'nowhere', and it is",
        ),
    ],
)
def test_main(tmp_path, flags, said):
    workdir = tmp_path / "run"
    assert said in fail("main.py", f"--workdir={workdir}", *flags)
    assert not workdir.exists()


def test_main_without_a_workdir():
    assert "--workdir" in fail("main.py", STAGE1)


def test_sampling_from_a_workdir_without_a_checkpoint(tmp_path):
    from PIL import Image

    sketch = tmp_path / "sketch.png"
    Image.new("L", (1, 1), 255).save(sketch)
    output = tmp_path / "out"
    said = fail(
        "ragaf_jax.sample",
        f"--stage1={tmp_path}",
        f"--stage2={tmp_path}",
        f"--sketch={sketch}",
        "--prompt=",
        f"--output={output}",
    )
    assert "holds no checkpoint" in said
    assert not output.exists()
