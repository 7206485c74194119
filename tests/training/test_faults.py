"""What a fault costs a run on real data, and what the run says: the table of docs/training.md.

At most the steps since the last checkpoint; then the same command makes the very same steps again.
"""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from fakes import smallest_config, tiny_config
from flax.traverse_util import flatten_dict
from shared_programs import share_training

from input_pipeline.loader import (
    DevicePrefetcher,
    distinct_groups,
    held_out_batch,
    train_iterator,
)
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from input_pipeline.records import RecordSource
from ragaf_jax.checkpoints.reading import load_params
from ragaf_jax.errors import UserError
from ragaf_jax.monitoring.writers import JsonLines
from ragaf_jax.training.loop import train

TESTS = Path(__file__).parents[1]
STEPS, SAVED = 8, 3  # the run's steps, and how often it saves
DATASET = "openmoji/recolor"
SHAPES = {"text_length": 40, "max_regions": 33, "max_edges": 192}


class Meddled:
    """Batches; something happens before a run is given its n-th."""

    def __init__(self, batches, happenings):
        self.batches, self.happenings, self.count = batches, happenings, 0

    def __next__(self):
        self.count += 1
        self.happenings.get(self.count, lambda: None)()
        return next(self.batches)

    def __getattr__(self, name):
        return getattr(self.batches, name)


def go_on(data, workdir, happenings=None):
    """Begins the run of `workdir`, or goes on with it."""
    config = smallest_config(1)
    source = RecordSource(data, DATASET, "train", Options(config.data.image_size, 1))
    validation = RecordSource(data, DATASET, "validation", Options(config.data.image_size, 1))
    config.update_from_flattened_dict(
        {
            "seed": int(os.environ["RAGAF_TEST_SEED"]) % 2**31,
            "train.trainable": ("control/.*",),
            "train.frozen": (".*",),
            "model.text_encoder.vocab_size": 4096,
            "train.steps": STEPS,
            "checkpoint_every": SAVED,
            "keep_last": 2,
            "log_every": 1,
            **{f"data.{name}": size for name, size in SHAPES.items()},
        }
    )

    def open_iterator(keys):
        batches = train_iterator(source, config.train.batch_size, config.seed, **SHAPES)
        return Meddled(DevicePrefetcher(batches, lambda batch: batch), happenings or {})

    train(
        config,
        workdir,
        open_iterator,
        held_out_batch(validation, distinct_groups(validation, 2), **SHAPES)[0],
        source.tokenizer,
        lambda first: JsonLines(workdir / "metrics.jsonl", first),
    )


def losses(workdir):
    """Of every step that was made."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def saved(workdir):
    """The steps of the checkpoints, and what else lies beside them."""
    return {path.name for path in (workdir / "checkpoints").iterdir()}


def stored(workdir):
    """When each file of its checkpoints was written."""
    return {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")}


def wait_for_the_first_save(workdir):
    """It is written in the background."""
    while str(SAVED) not in saved(workdir):
        time.sleep(0.001)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """All runs in this process share their programs."""
    with pytest.MonkeyPatch.context() as patch:
        share_training(patch)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Four drawings of every split."""
    folder = tmp_path_factory.mktemp("data")
    prepare(DATASET, folder, Options(tiny_config(1).data.image_size, recolorings=1, limit=4))
    return folder


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """The workdir of a run to which nothing happened."""
    workdir = tmp_path_factory.mktemp("whole")
    go_on(data_dir, workdir)
    assert list(losses(workdir)) == list(range(1, STEPS + 1))
    return workdir


@pytest.fixture
def own_data(data_dir, tmp_path):
    """A copy to spoil, and in it the file of the training records."""
    shutil.copytree(data_dir, tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*train.array_record*")
    return tmp_path / "data", file


def assert_same_run(workdir, whole):
    """All the steps of the run to which nothing happened, and its parameters, to the bit."""
    assert losses(workdir) == losses(whole)
    (found, meta), (expected, _) = load_params(workdir), load_params(whole)
    assert meta["step"] == STEPS
    found, expected = flatten_dict(found, sep="/"), flatten_dict(expected, sep="/")
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def until_killed(data, workdir, delay):
    """Runs until `delay` seconds into the second step after a checkpoint; for another process."""
    workdir = Path(workdir)

    def kill_soon():
        wait_for_the_first_save(workdir)
        threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()

    go_on(Path(data), workdir, {SAVED + 2: kill_soon, SAVED + 3: lambda: time.sleep(60)})


def test_killed_in_a_step(rng, data_dir, whole, tmp_path):
    """Lost: the steps since the checkpoint. Said: nothing, there was no time."""
    delay = str(rng.uniform(0, 0.01))
    script = "import sys, test_faults; test_faults.until_killed(*sys.argv[1:])"
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS / "support", TESTS / "training")))
    killed = subprocess.run(
        [sys.executable, "-c", script, str(data_dir), str(tmp_path), delay],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved(tmp_path) == {str(SAVED)}
    made = set(losses(tmp_path))
    assert {SAVED + 1} <= made - set(range(1, SAVED + 1)) <= {SAVED + 1, SAVED + 2}
    go_on(data_dir, tmp_path)
    assert_same_run(tmp_path, whole)


def test_the_newest_checkpoint_is_damaged(data_dir, whole, tmp_path, caplog):
    """Lost: the steps between it and the one before. Said: which is damaged, which is used."""

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        go_on(data_dir, tmp_path, {2 * SAVED + 2: stop})
    assert saved(tmp_path) == {str(SAVED), str(2 * SAVED)}
    files = list((tmp_path / "checkpoints" / str(2 * SAVED)).rglob("*/d/*"))
    os.truncate(max(files, key=lambda path: path.stat().st_size), 100)
    with caplog.at_level(logging.WARNING):
        go_on(data_dir, tmp_path)
    folder = tmp_path / "checkpoints"
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint {folder / str(2 * SAVED)} is damaged (")
    assert said[0].endswith(f": using {folder / str(SAVED)} instead")
    assert f"damaged-{2 * SAVED}" in saved(tmp_path)
    assert_same_run(tmp_path, whole)


def test_the_disk_is_full(data_dir, whole, tmp_path):
    """Lost: the steps after the last whole checkpoint. Said: what was not saved, why, what is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full():  # no file can grow further than the lines of metrics.jsonl
        wait_for_the_first_save(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    try:
        with pytest.raises(UserError) as error:
            go_on(data_dir, tmp_path, {SAVED + 1: full})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value) == (
        f"the checkpoint of step {2 * SAVED} could not be written to {tmp_path / 'checkpoints'} "
        "(File too large): free space or make the folder writable, then start again; training "
        f"resumes from the checkpoint of step {SAVED}, which is complete"
    )
    assert saved(tmp_path) == {str(SAVED)}
    go_on(data_dir, tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_file_of_the_data_is_damaged_while_they_are_read(own_data, whole, tmp_path):
    """Lost: the steps since the checkpoint. Said: the file, and what brings it back."""
    (data, file), workdir = own_data, tmp_path / "run"
    content = file.read_bytes()

    def damage():
        wait_for_the_first_save(workdir)
        os.truncate(file, 100)

    with pytest.raises(UserError) as error:
        go_on(data, workdir, {SAVED + 1: damage})
    assert f"A record of train cannot be read from {file}, which is missing or damaged (" in str(
        error.value
    )
    command = f"--dataset=openmoji/recolor --data_dir={data} --size=16 --recolorings=1"
    again = "; restore it, or delete the folder and run: python -m input_pipeline.prepare "
    assert str(error.value).endswith(again + command)
    assert str(SAVED) in saved(workdir)
    before = stored(workdir)
    with pytest.raises(UserError, match="cannot be read .*; delete the folder and run: "):
        go_on(data, workdir)
    assert stored(workdir) == before
    file.write_bytes(content)
    go_on(data, workdir)
    assert_same_run(workdir, whole)


def test_a_file_of_the_data_is_gone_while_they_are_read(own_data, whole, tmp_path):
    """Lost: nothing, what is open stays readable. Said: by the next start, which file it misses."""
    (data, file), workdir = own_data, tmp_path / "run"
    go_on(data, workdir, {SAVED + 1: file.unlink})
    assert_same_run(workdir, whole)
    with pytest.raises(UserError, match=rf"No such file or directory; opening {file}\); delete"):
        go_on(data, workdir)
    assert_same_run(workdir, whole)


def in_two_files(file):
    """Shares out a split's records over two files; returns the second."""
    folder, (name, _, _) = file.parent, file.name.rpartition("-00000-")
    records = tfds.builder_from_directory(os.fspath(folder)).as_data_source()["train"].data_source
    halves = [[records[i] for i in part] for part in np.split(np.arange(len(records)), 2)]
    for i, half in enumerate(halves):
        writer = ArrayRecordWriter(str(folder / f"{name}-{i:05}-of-00002"), "group_size:1")
        for record in half:
            writer.write(record)
        writer.close()
    file.unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    (train_split,) = (split for split in info["splits"] if split["name"] == "train")
    train_split["shardLengths"] = [str(len(half)) for half in halves]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder / f"{name}-00001-of-00002"


def test_one_of_two_files_of_the_data_is_gone(own_data, data_dir):
    """Lost: nothing. Said: at the start, although the first record is there."""
    data, file = own_data
    second = in_two_files(file)
    options = Options(16, 1)
    one, two = (RecordSource(folder, DATASET, "train", options) for folder in (data_dir, data))
    assert [record["key"] for record in one.fields("key")] == [two[i]["key"] for i in range(4)]
    content = second.read_bytes()
    os.truncate(second, 100)
    for index in (0, 1):
        assert two[index]["key"] == one[index]["key"]
    with pytest.raises(UserError, match=f"A record of train cannot be read from {second}, which"):
        two[2]
    with pytest.raises(UserError, match=f"read from {file.parent}/.*of-00002 or {second}, which"):
        list(two.fields("key"))
    second.unlink()
    with pytest.raises(UserError, match=rf"opening {second}\); delete the folder and run: "):
        RecordSource(data, DATASET, "train", Options(16, 1))
    second.write_bytes(content)
    RecordSource(data, DATASET, "train", Options(16, 1))
