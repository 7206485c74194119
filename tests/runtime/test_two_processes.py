"""Two real processes train, are killed, and go on as two or as one, as if nothing had been."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import run_here
from fakes import command_flags, tiny_config
from ports import reserve_port
from test_sharding import config_on, run

from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from ragaf_jax.runtime.processes import join

ROOT = Path(__file__).parents[2]
STEPS, EVERY, KILLED_AFTER = 40, 10, 15
MINUTES = 15  # that a run may take on a machine with other work
CHANGES = {
    "data.image_size": 32,
    "data.max_regions": 33,
    "data.max_edges": 192,
    "data.text_length": 40,
    "model.text_encoder.vocab_size": 4096,
    "train.steps": STEPS,
    "checkpoint_every": EVERY,
    "log_every": 1,
    "response.every": EVERY,
    "response.examples": 2,
    "response.sample_steps": 1,
    "validate_every": STEPS,
    "validation_examples": 2,
    "sample_every": STEPS,
    "sample_examples": 2,
    "sample.steps": 2,
    "mesh.data": 1,
    "mesh.fsdp": -1,  # every parameter in two halves
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four drawings of every split."""
    folder = tmp_path_factory.mktemp("data")
    prepare("openmoji", folder, Options(32, 2, 4))
    return folder


def command(data):
    """Trains a tiny Stage 1."""
    config = tiny_config(1)
    config.update_from_flattened_dict({**CHANGES, "data.dir": str(data), "data.recolorings": 2})
    flags = command_flags(config)
    return [sys.executable, "main.py", "--config=configs/stage1.py:quickstart", *flags]


@pytest.fixture
def start(data):
    """Starts one process, or several that train together; none outlives the test."""
    started = []

    def begin(workdir, count, *more):
        port = reserve_port()
        processes = []
        for i in range(count):
            flags = [f"--coordinator=localhost:{port}", f"--process_id={i}"]
            flags = [*flags, f"--process_count={count}"] if count > 1 else []
            with Path(f"{workdir}_{count}_{i}.log").open("w") as said:
                process = subprocess.Popen(
                    [*command(data), f"--workdir={workdir}", *flags, *more],
                    cwd=ROOT,
                    stdout=said,
                    stderr=said,
                )
            processes.append(process)
        started.extend(processes)
        return processes

    yield begin
    for process in started:
        process.kill()
        process.wait()


def errors(workdir):
    """What the processes of a workdir said."""
    return "\n".join(file.read_text() for file in workdir.parent.glob(f"{workdir.name}_*.log"))


def finish(processes, workdir):
    for process in processes:
        assert process.wait(timeout=MINUTES * 60) == 0, errors(workdir)


def lines(workdir):
    """What metrics.jsonl holds; its last line may be half written."""
    file = workdir / "logs" / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def losses(workdir):
    return {line["step"]: line["loss"] for line in lines(workdir) if "loss" in line}


def two_losses(seed):
    """Of a Stage 1 over all devices of all processes."""
    _, state, steps, *_ = run(config_on(1, -1, 1), jax.device_count(), seed)
    return steps(state, 2)[1]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(seed):
    port = reserve_port()
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))
    both = [
        subprocess.Popen(
            [sys.executable, __file__, str(seed), str(port), str(i)],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    expected = two_losses(seed)
    for process in both:
        printed, said = process.communicate(timeout=MINUTES * 60)
        assert process.returncode == 0, said
        count, losses_of_both = json.loads(printed.splitlines()[-1])
        assert count == 2
        np.testing.assert_allclose(losses_of_both, expected, rtol=1e-5)


@pytest.mark.processes
@pytest.mark.kills
def test_two_processes_are_killed_and_go_on_as_one_and_as_two(tmp_path, start):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, 1), whole)
    expected = losses(whole)
    assert list(expected) == list(range(1, STEPS + 1))

    both = start(killed, 2)
    saved = killed / "checkpoints" / str(EVERY)
    while not (saved.exists() and any(step >= KILLED_AFTER for step in losses(killed))):
        assert all(process.poll() is None for process in both), errors(killed)
        time.sleep(0.005)
    for process in both:
        process.kill()
    for process in both:
        process.wait()
    assert KILLED_AFTER <= max(losses(killed)) < STEPS
    assert not list((killed / "samples").glob("*.png"))  # it did not come to its end

    response = [line["response/sketch"] for line in lines(whole) if "response/sketch" in line]
    # As one, and as two that copy the parameters of which each had a half before.
    for count, more in ((1, ()), (2, ("--config.mesh.data=-1", "--config.mesh.fsdp=1"))):
        workdir = tmp_path / f"on_{count}"
        shutil.copytree(killed, workdir)
        finish(start(workdir, count, *more), workdir)
        found = losses(workdir)
        assert list(found) == list(expected)
        firsts = [line["step"] for line in lines(workdir) if "time/first_step" in line]
        assert len(firsts) == 2 and firsts[0] == 1 and firsts[1] % EVERY == 1  # it did go on
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
        again = [line["response/sketch"] for line in lines(workdir) if "response/sketch" in line]
        np.testing.assert_allclose(again, response, rtol=1e-3, atol=1e-6)
        # The average at the end. Its numbers differ where a gradient is noise, as that of a bias
        # before a normalisation, which Adam follows all the same.
        ends = [lines(path)[-1] for path in (whole, workdir)]
        assert ends[0].keys() == ends[1].keys() and "validation/true" in ends[0]
        for name, value in ends[0].items():
            np.testing.assert_allclose(ends[1][name], value, rtol=1e-5, err_msg=name)
        assert len(list((workdir / "samples").glob("*.png"))) == 1


def test_a_part_of_an_address_is_none(tmp_path):
    """What is said where only a part of the address is given."""
    flags = f"--workdir={tmp_path / 'run'}", "--coordinator=localhost:1"
    done = run_here(*command(tmp_path / "data")[1:], *flags)
    assert done.status == 1
    assert "give --coordinator, --process_id and --process_count" in done.stderr
    assert not (tmp_path / "run").exists()


if __name__ == "__main__":
    given_seed, port, number = sys.argv[1:]
    join(f"localhost:{port}", int(number), 2)
    print(json.dumps([jax.process_count(), two_losses(int(given_seed))]))
