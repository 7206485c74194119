"""What was compiled once is not compiled again, and a cache that cannot be used stops nothing."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fakes import command_flags, smallest_config
from ports import reserve_port

from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from ragaf_jax.runtime.compilation_cache import user_caches

ROOT = Path(__file__).parents[2]
COMPILES = """
import jax
from ragaf_jax.runtime.compilation_cache import keep_compiled
keep_compiled()
print(jax.jit(lambda x: 3 * x + 1)(2.0))
"""


def environment(**values):
    """Of a command whose user has chosen nothing but `values`."""
    ours = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    return ours | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | values


def begin(*command, **values):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment(**{key: str(value) for key, value in values.items()}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """What it said; it must have ended well."""
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    return said, errors


def kept(folder):
    """What is in the cache: the names of what was compiled, with their keys."""
    return {path.name for path in folder.glob("*-cache")}


def last_read(folder, function):
    """When what was compiled of this function was last taken from the cache."""
    (time,) = folder.glob(f"jit_{function}-*-atime")
    return time.read_bytes()


@pytest.mark.processes
def test_the_second_start_compiles_nothing(tmp_path):
    """To the first step and its checkpoint, in the place for caches that the system names."""
    prepare("openmoji", tmp_path / "data", Options(32, 2, 4))
    config = smallest_config(1)
    changes = {
        "data.dir": str(tmp_path / "data"),
        "data.recolorings": 2,
        "data.image_size": 32,
        "data.max_regions": 33,
        "data.max_edges": 192,
        "data.text_length": 40,
        "model.text_encoder.vocab_size": 4096,
        "validation_examples": 2,
        "sample_examples": 2,
    }
    config.update_from_flattened_dict(changes)
    command = ["main.py", "--config=configs/stage1.py:quickstart", *command_flags(config)]
    caches, found, read = tmp_path / "caches", [], []
    for name in ("one", "two"):
        run = begin(*command, f"--workdir={tmp_path / name}", XDG_CACHE_HOME=caches)
        log = tmp_path / name / "logs" / "metrics.jsonl"
        while not (log.exists() and "time/first_step" in log.read_text()):
            assert run.poll() is None, run.communicate()
            time.sleep(0.05)
        run.terminate()
        finish(run)
        folder = caches / "ragaf-jax" / "xla"
        found.append(kept(folder))
        read.append([last_read(folder, name) for name in ("fresh", "train_step")])
    assert found[0] == found[1]
    assert all(one != two for one, two in zip(*read, strict=True))
    for function in ("fresh", "initial_state", "train_step"):
        assert sum(name.startswith(f"jit_{function}-") for name in found[0]) == 1


def test_a_folder_that_is_given_is_taken(tmp_path):
    given, caches = tmp_path / "given", tmp_path / "caches"
    finish(begin("-c", COMPILES, JAX_COMPILATION_CACHE_DIR=given, XDG_CACHE_HOME=caches))
    assert kept(given)
    assert not caches.exists()


def test_what_others_put_there_is_read(tmp_path):
    given = tmp_path / "given"
    finish(begin("-c", COMPILES, JAX_COMPILATION_CACHE_DIR=given))
    before = kept(given)
    given.chmod(0o555)
    _, errors = finish(begin("-c", COMPILES, JAX_COMPILATION_CACHE_DIR=given))
    given.chmod(0o755)
    assert kept(given) == before and "set JAX_COMPILATION_CACHE_DIR" not in errors


def test_two_at_once(tmp_path):
    both = [begin("-c", COMPILES, XDG_CACHE_HOME=tmp_path) for _ in range(2)]
    assert [finish(process) for process in both] == [("7.0\n", "")] * 2
    assert kept(tmp_path / "ragaf-jax" / "xla")


def test_where_nothing_can_be_kept_a_sentence_says_so(tmp_path):
    (tmp_path / "file").touch()
    said, errors = finish(begin("-c", COMPILES, JAX_COMPILATION_CACHE_DIR=tmp_path / "file"))
    assert said == "7.0\n"
    assert len(errors.splitlines()) == 1
    assert "set JAX_COMPILATION_CACHE_DIR to a writable folder" in errors


def test_processes_that_train_together_share_only_what_is_given(tmp_path):
    """Else the first one might find what the others then wait to compile with it."""
    port = reserve_port()
    joins = f"import jax\njax.distributed.initialize('localhost:{port}', 1, 0)\n{COMPILES}"
    said, _ = finish(begin("-c", joins, XDG_CACHE_HOME=tmp_path / "caches"))
    assert said == "7.0\n"
    assert not (tmp_path / "caches").exists()
    finish(begin("-c", joins, JAX_COMPILATION_CACHE_DIR=tmp_path / "given"))
    assert kept(tmp_path / "given")


@pytest.mark.parametrize("value", [None, "", "relative/path"])
def test_the_usual_place_for_caches(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_caches() == tmp_path / ".cache"


def test_users_without_a_home_have_a_place_too(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert user_caches() == Path(tempfile.gettempdir())
