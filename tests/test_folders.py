import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, run_here

from ragaf_jax.errors import UserError
from ragaf_jax.folders import alone_in, check_writable, whole_files, whole_folder

METADATA = "metadata.json"
FILES = {"sketch.png", "prompt.txt", METADATA}


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "dog"
    check_writable(target, FILES)
    with contextlib.suppress(RuntimeError), whole_folder(target) as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    for name in ("prompt.txt", "sketch.png"):
        with whole_folder(target) as folder:
            (folder / name).touch()
            (folder / METADATA).touch()
            assert not (target / name).exists()
        assert {path.name for path in target.iterdir()} == {name, METADATA}
        check_writable(target, FILES)
    assert [path.name for path in target.parent.iterdir()] == ["dog"]


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        check_writable(tmp_path, FILES)
    with pytest.raises(UserError, match="is a file"):
        check_writable(tmp_path / "notes.txt", FILES)
    with pytest.raises(UserError, match="cannot be created"):
        check_writable(tmp_path / "notes.txt" / "dog", FILES)
    # A data set has a metadata.json too.
    (tmp_path / METADATA).touch()
    with pytest.raises(UserError, match="holds other files"):
        check_writable(tmp_path, FILES)


def test_an_earlier_output_survives_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "dog"
    with whole_folder(target) as folder:
        (folder / METADATA).write_text("first")
    rename = Path.rename

    def full(path, to):
        if path.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(UserError, match="No space left"), whole_folder(target) as folder:
        (folder / METADATA).write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["dog"]
    assert (target / METADATA).read_text() == "first"


def test_files_appear_together_or_not_at_all(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "report.md").write_text("old")
    with contextlib.suppress(RuntimeError), whole_files(tmp_path) as folder:
        (folder / "report.md").write_text("half")
        raise RuntimeError
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "report.md"}
    assert (tmp_path / "report.md").read_text() == "old"
    with whole_files(tmp_path) as folder:
        (folder / "report.md").write_text("new")
        (folder / "numbers.json").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "numbers.json", "report.md"}
    assert (tmp_path / "report.md").read_text() == "new"


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    folder = tmp_path / "run"
    with alone_in(folder, "training", "--workdir"):
        said = "Another training is running in .*run; wait for it or give another --workdir"
        with pytest.raises(UserError, match=said), alone_in(folder, "training", "--workdir"):
            pass
        with alone_in(folder, "preparation", "--data_dir"):
            pass
        (folder / "config.json").touch()
    with alone_in(folder, "training", "--workdir"):
        pass
    assert (folder / "config.json").exists()


def test_a_folder_in_which_nothing_was_written_is_removed(tmp_path):
    with pytest.raises(KeyError), alone_in(tmp_path / "run", "training", "--workdir"):
        raise KeyError
    assert not (tmp_path / "run").exists()
    with alone_in(tmp_path, "training", "--workdir"):
        pass
    assert tmp_path.exists()


def test_a_killed_process_leaves_no_lock(tmp_path):
    script = (
        "import os, pathlib, sys; from ragaf_jax.folders import alone_in\n"
        "with alone_in(pathlib.Path(sys.argv[1]), 'training', '--workdir'): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], cwd=ROOT, check=False)
    assert killed.returncode == -9 and (tmp_path / "run" / ".training.lock").exists()
    with alone_in(tmp_path / "run", "training", "--workdir"):
        pass


def test_a_second_training_is_refused(tmp_path):
    command = "main.py", "--config=configs/stage1.py:quickstart", f"--workdir={tmp_path / 'run'}"
    with alone_in(tmp_path / "run", "training", "--workdir"):
        done = run_here(*command)
    assert done.status == 1 and "Another training is running in" in done.stderr
