"""What a full or locked disk or a killed process leaves: every checkpoint that was whole before."""

import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.checkpoints.reading import saved_steps
from ragaf_jax.errors import UserError

WHOLE = "training resumes from the checkpoint of step 1, which is complete"


def draw(rng, size):
    return {"kernel": jnp.asarray(rng.standard_normal(size), jnp.float32)}


def save_and_wait(checkpointer, step, state, meta):
    checkpointer.save(step, state, {}, meta)
    checkpointer.wait()


def assert_left_whole(workdir, state):
    """Nothing but checkpoint 1 is there, and it restores."""
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["1"]
    assert_restores(workdir, state)


def assert_restores(workdir, state):
    checkpointer = Checkpointer(workdir, 1)
    restored = checkpointer.restore_latest(jax.eval_shape(lambda: state))
    checkpointer.close()
    assert restored.step == 1
    np.testing.assert_array_equal(restored.state["kernel"], state["kernel"])


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB, and what mounts it again with other options."""

    def mount(*options):
        command = ["mount", *options, str(tmp_path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        pytest.skip("mounting a disk is not permitted")
    yield tmp_path, mount
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def file_limit():
    """Sets how many bytes this process may write into one file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("surfaces", ["wait", "save", "close"])
def test_a_full_disk_ends_in_a_sentence(small_disk, rng, surfaces, caplog):
    workdir, _ = small_disk
    state = draw(rng, 50_000)
    checkpointer = Checkpointer(workdir, 1)
    checkpointer.save(1, state, {}, {"config": {}})
    checkpointer.save(2, draw(rng, 1_000_000), {}, {"config": {}})
    then = {
        "wait": checkpointer.wait,
        "save": lambda: checkpointer.save(3, state, {}, {"config": {}}),
        "close": checkpointer.close,
    }
    caplog.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as error:
        then[surfaces]()
    folder = workdir / "checkpoints"
    assert str(error.value) == (
        f"the checkpoint of step 2 could not be written to {folder} (No space left on device): "
        f"free space or make the folder writable, then start again; {WHOLE}"
    )
    assert "Traceback" not in caplog.text
    checkpointer.close()  # as a loop does at its end: it says nothing more
    assert_left_whole(workdir, state)


def test_a_file_that_may_not_grow_ends_in_a_sentence(tmp_path, rng, file_limit):
    state = draw(rng, 1000)
    checkpointer = Checkpointer(tmp_path, 1)
    checkpointer.save(1, state, {}, {"config": {}})
    checkpointer.wait()
    file_limit(1_000_000)
    checkpointer.save(2, draw(rng, 1_000_000), {}, {"config": {}})
    with pytest.raises(UserError, match=rf"of step 2 could not .*File too large.*{WHOLE}"):
        checkpointer.wait()
    checkpointer.close()
    assert_left_whole(tmp_path, state)


def test_a_first_checkpoint_that_fails_says_so(tmp_path, rng, file_limit):
    checkpointer = Checkpointer(tmp_path, 1)
    file_limit(1_000_000)
    checkpointer.save(1, draw(rng, 1_000_000), {}, {"config": {}})
    with pytest.raises(UserError, match="starts anew, because there is no checkpoint yet"):
        checkpointer.wait()
    checkpointer.close()
    assert not saved_steps(tmp_path)


def test_a_disk_that_becomes_read_only_ends_in_a_sentence(small_disk, rng):
    workdir, mount = small_disk
    state = draw(rng, 1000)
    checkpointer = Checkpointer(workdir, 1)
    checkpointer.save(1, state, {}, {"config": {}})
    checkpointer.wait()
    assert mount("-o", "remount,ro")
    with pytest.raises(UserError, match=rf"of step 2 .*\(Read-only file system\).*{WHOLE}"):
        save_and_wait(checkpointer, 2, state, {"config": {}})
    checkpointer.close()
    assert_left_whole(workdir, state)
    with pytest.raises(UserError, match=r"new/checkpoints cannot hold .*\(Read-only file system\)"):
        Checkpointer(workdir / "new", 1)


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"cannot hold checkpoints \(Not a directory\): make it"):
        Checkpointer(tmp_path / "run", 1)


def test_a_mistake_of_the_program_keeps_its_name(tmp_path):
    checkpointer = Checkpointer(tmp_path, 1)
    with pytest.raises(TypeError):
        save_and_wait(checkpointer, 1, {"kernel": jnp.zeros(2)}, {"not JSON": object()})


def test_killed_while_it_writes_a_run_goes_on_from_the_one_before(tmp_path, rng):
    script = """
        import os, signal, sys, time
        from pathlib import Path
        import jax.numpy as jnp, numpy as np
        from ragaf_jax.checkpoints.checkpointer import Checkpointer
        workdir = Path(sys.argv[1])
        checkpointer = Checkpointer(workdir, 1)
        checkpointer.save(1, {"kernel": jnp.arange(8.0)}, {}, {"config": {}})
        big = np.random.default_rng(0).standard_normal(25_000_000, np.float32)
        checkpointer.save(2, {"kernel": jnp.asarray(big)}, {}, {"config": {}})
        while not list(workdir.glob("checkpoints/2.orbax-checkpoint-tmp/*")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").exists()
    assert_restores(tmp_path, {"kernel": jnp.arange(8.0)})
    assert_left_whole(tmp_path, {"kernel": jnp.arange(8.0)})


def test_a_long_wait_for_the_former_checkpoint_is_said(tmp_path, rng, monkeypatch, caplog):
    monkeypatch.setattr("ragaf_jax.checkpoints.checkpointer._LONG_WAIT", 0.0)
    checkpointer = Checkpointer(tmp_path, 2)
    with caplog.at_level(logging.WARNING, "ragaf_jax"):
        for step in (1, 2):
            checkpointer.save(step, draw(rng, 100_000), {}, {"config": {}})
    checkpointer.close()
    assert "at step 2 for the checkpoint of step 1 to be written: raise" in caplog.text
