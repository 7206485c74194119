import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run_here
from miniature import LIMIT, RECOLORINGS, SIZE

from input_pipeline.datasets.openmoji_art import find_drawings
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError

# Prepares, reads and makes a batch, all in a process of its own.
_RUN = f"""
import sys
from pathlib import Path
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from input_pipeline.records import RecordSource
from input_pipeline.loader import train_iterator
data = Path(sys.argv[1])
if __name__ == "__main__":
    prepare("openmoji", data, Options({SIZE}, {RECOLORINGS}, {LIMIT}), Execution(workers=2))
    source = RecordSource(data, "openmoji/recolor", "train", Options({SIZE}, {RECOLORINGS}))
    next(train_iterator(source, 2, 0, text_length=40, max_regions=33, max_edges=192))
    print(sorted({{"tensorflow", "torch"}} & set(sys.modules)))
"""


def start(script: Path, data_dir: Path, hash_seed: int) -> subprocess.Popen:
    script.write_text(_RUN)
    return subprocess.Popen(
        [sys.executable, script, data_dir],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(data_dir: Path) -> dict[str, str]:
    # Others that use the same data write beside them.
    files = [path for path in (data_dir / "openmoji").rglob("*") if path.is_file()]
    return {
        str(path.relative_to(data_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_every_split_has_its_own_drawings(data_dir):
    split_of_key = {drawing.key: drawing.split for drawing in find_drawings()}
    for split in ("train", "validation", "test"):
        plain = RecordSource(data_dir, "openmoji/plain", split, Options(SIZE))
        recolored = RecordSource(data_dir, "openmoji/recolor", split, Options(SIZE, RECOLORINGS))
        assert len(plain) == LIMIT and len(recolored) == LIMIT * RECOLORINGS
        keys = {plain[i]["key"] for i in range(LIMIT)}
        assert {recolored[i]["key"] for i in range(len(recolored))} == {
            f"{key}/{index}" for key in keys for index in range(RECOLORINGS)
        }
        assert {split_of_key[key] for key in keys} == {split}


@pytest.mark.slow
def test_what_an_interrupted_preparation_left_is_no_data_and_has_no_part_in_the_next(
    data_dir, tmp_path
):
    """A restart after an interruption, with other string hashes, writes the same bytes."""
    again = tmp_path / "data"
    for made in data_dir.glob("openmoji/*/*"):
        left = again / made.relative_to(data_dir).with_name(f"incomplete.AB12CD_{made.name}")
        shutil.copytree(made, left)
        (left / "half.array_record").write_bytes(b"half")
    with pytest.raises(UserError, match="There is no data in"):
        RecordSource(again, "openmoji/plain", "train", Options(SIZE))
    check_whole(start(tmp_path / "run.py", again, hash_seed=2), again, data_dir)


def check_whole(preparation, again, data_dir):
    """It succeeds without TensorFlow or PyTorch, and writes the bytes of `data_dir`."""
    out, err = preparation.communicate(timeout=600)
    assert preparation.returncode == 0, err
    assert out.splitlines()[-1] == "[]"
    assert "examples" in err and "records=" in err  # the progress bar
    assert contents(again) == contents(data_dir)


@pytest.mark.kills
def test_an_interrupted_preparation_starts_clean_and_makes_the_same_bytes(data_dir, tmp_path):
    again = tmp_path / "data"
    killed = start(tmp_path / "run.py", again, hash_seed=1)
    deadline = time.monotonic() + 120
    while not list(again.glob("openmoji/*/incomplete*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert list(again.glob("openmoji/*/incomplete*"))
    with pytest.raises(UserError, match="There is no data in"):
        RecordSource(again, "openmoji/plain", "train", Options(SIZE))

    check_whole(start(tmp_path / "run.py", again, hash_seed=2), again, data_dir)


def test_what_is_there_is_not_made_again(data_dir):
    before = {path: path.stat().st_mtime_ns for path in data_dir.glob("openmoji/*/*/*")}
    prepare("openmoji", data_dir, Options(SIZE, RECOLORINGS, LIMIT))
    assert before == {path: path.stat().st_mtime_ns for path in data_dir.glob("openmoji/*/*/*")}


def test_a_part_of_the_data_does_not_pass_for_the_whole(data_dir):
    with pytest.raises(UserError, match=f"prepared with --limit={LIMIT}, not 0"):
        prepare("openmoji", data_dir, Options(SIZE, RECOLORINGS))


def test_an_unknown_data_set_is_named(tmp_path):
    with pytest.raises(UserError, match="no dataset 'openmojo'; choose openmoji/plain, "):
        prepare("openmojo", tmp_path, Options(SIZE, RECOLORINGS))
    assert not list(tmp_path.iterdir())


def test_a_size_that_no_network_can_use_is_refused(tmp_path):
    done = run_here("input_pipeline.prepare", "--size=33", f"--data_dir={tmp_path}")
    assert done.status == 1 and not list(tmp_path.iterdir())
    assert (
        "--size is 33, which the networks cannot downsample; choose a multiple of 8" in done.stderr
    )
    assert "such as 32 or 40" in done.stderr


def test_two_preparations_do_not_disturb_each_other(tmp_path):
    with (tmp_path / ".preparation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another preparation is running"):
            prepare("openmoji", tmp_path, Options(SIZE, RECOLORINGS, LIMIT))
