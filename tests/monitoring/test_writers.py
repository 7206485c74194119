"""What a run reports is found again where it was said to be."""

import json
import os
import struct
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import smallest_config
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from ragaf_jax.errors import UserError
from ragaf_jax.figures.curves import read_metrics
from ragaf_jax.monitoring.writers import (
    JsonLines,
    PngFiles,
    TensorBoard,
    Terminal,
    WandB,
    workdir_writer,
)
from ragaf_jax.training.adopt import with_fields

ROOT = Path(__file__).parents[2]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_events(folder):
    """The events of TensorBoard's files: length, its checksum, the message, its checksum."""
    events = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, start = file.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            events.append(Event.FromString(content[start + 12 : start + 12 + length]))
            start += 16 + length
    return events


def picture(rng, height=5, width=7):
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def test_json_lines_keep_every_bit(tmp_path, rng):
    losses = rng.standard_normal(4).astype(np.float32)
    writer = JsonLines(tmp_path / "logs" / "metrics.jsonl")
    for step, loss in enumerate(losses, start=1):
        writer.scalars(step, {"loss": jnp.asarray(loss), "norm": loss})
    writer.scalars(5, {"loss": float("nan")})
    lines = read_lines(tmp_path / "logs" / "metrics.jsonl")  # before it is closed
    writer.close()
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal([line["loss"] for line in lines[:4]], losses)
    np.testing.assert_array_equal([line["norm"] for line in lines[:4]], losses)
    assert np.isnan(lines[4]["loss"])


def test_a_resumed_run_replaces_the_lines_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 2.0}\n{"step": 30, "lo')
    writer = JsonLines(path, first_step=10)
    writer.scalars(20, {"loss": 3.0})
    writer.close()
    assert read_lines(path) == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 3.0}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_those_who_read_numbers_pass_over_messages(tmp_path):
    writer = JsonLines(tmp_path / "logs" / "metrics.jsonl")
    writer.scalars(10, {"loss": 0.5})
    writer.text(10, "response", "It is obeyed.")
    writer.close()
    assert read_metrics(tmp_path / "logs" / "metrics.jsonl") == {"loss": ([10], [0.5])}


def test_the_terminal_shows_loss_speed_and_time_left(capsys):
    writer = Terminal(total_steps=40, batch_size=16, first_step=20)
    writer.scalars(30, {"loss": jnp.float32(0.25), "norm": 1.0})
    writer.scalars(30, {"response/sketch": 0.5, "response/sketch_error": 0.1})
    writer.scalars(30, {"time/step": 0.5})
    writer.text(30, "response", "The sketch is obeyed.")
    writer.close()
    output = capsys.readouterr()
    assert output.out == ""
    assert "step 30: response/sketch 0.5\n" in output.err
    assert "step 30: The sketch is obeyed.\n" in output.err
    assert "time/step" not in output.err and "norm" not in output.err
    last = output.err.rstrip().splitlines()[-1].split("\r")[-1]
    assert last.startswith("step 30/40  75%|")
    assert "images/s" in last and " left, loss 0.2500" in last


def test_tensorboard_has_the_numbers_and_pictures(tmp_path, rng):
    image = picture(rng)
    writer = TensorBoard(tmp_path)
    writer.scalars(3, {"loss": jnp.float32(0.5), "fusion/sketch/0-249": 0.25})
    writer.images(3, {"samples": image})
    writer.text(4, "response", "The sketch is obeyed.")
    writer.close()
    values = {
        value.tag: (event.step, value)
        for event in read_events(tmp_path)
        for value in event.summary.value
    }
    assert values["loss"][0] == 3 and values["loss"][1].simple_value == 0.5
    assert values["fusion/sketch/0-249"][1].simple_value == 0.25  # a curve under "fusion"
    assert (values["samples"][1].image.height, values["samples"][1].image.width) == (5, 7)
    (said,) = [value for name, value in values.items() if name.startswith("response")]
    assert said[0] == 4 and said[1].tensor.string_val == [b"The sketch is obeyed."]


def test_tensorboard_is_told_what_a_resumed_run_repeats(tmp_path):
    TensorBoard(tmp_path, first_step=20).close()
    starts = [event.step for event in read_events(tmp_path) if event.HasField("session_log")]
    assert starts == [21]


def test_pictures_come_back_from_their_files(tmp_path, rng):
    images = {"samples": picture(rng), "regions": picture(rng, 2, 3)}
    PngFiles(tmp_path / "samples").images(40, images)
    for name, image in images.items():
        with Image.open(tmp_path / "samples" / f"0000040_{name}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), image)


def fake_wandb(calls):
    """The part of wandb's interface that is used."""

    def init(**settings):
        calls.append(("init", settings))
        run = types.SimpleNamespace(id=settings["id"] or "fresh")
        run.log = lambda values, step: calls.append((step, values))
        run.alert = lambda title, text: calls.append((title, text))
        run.finish = lambda: calls.append(("finish", None))
        return run

    return types.SimpleNamespace(init=init, Image=lambda image: ("image", image.shape))


def test_wandb_goes_on_in_the_run_of_the_workdir(tmp_path, rng, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(calls))
    for step in (1, 2):
        writer = WandB("drawings", tmp_path, {"seed": 0})
        writer.scalars(step, {"loss": jnp.float32(0.5)})
        writer.images(step, {"samples": picture(rng)})
        writer.text(step, "response", "It is obeyed.")
        writer.close()
    (_, first), (_, second) = calls[0], calls[5]
    assert (first["project"], first["name"], first["id"]) == ("drawings", tmp_path.name, None)
    assert (second["id"], second["resume"]) == ("fresh", "allow")
    assert calls[1:5] == [
        (1, {"loss": 0.5}),
        (1, {"samples": ("image", (5, 7, 3))}),
        ("response", "Step 1: It is obeyed."),
        ("finish", None),
    ]


def read_wandb(file):
    """The records of an offline run: in blocks of 32 KiB, after a header of 7 bytes, pieces of
    checksum, length, kind (1 whole, 2 first, 3 middle, 4 last) and content, as LevelDB's logs.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # seconds, which only this test needs

    content, start, record, records = file.read_bytes(), 7, b"", []
    while start < len(content):
        left = 2**15 - start % 2**15
        if left < 7:  # too short for a piece
            start += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, start)
        record += content[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):
            records.append(Record.FromString(record))
            record = b""
    return records


def rows_of(records):
    """The numbers and pictures of every step, by name."""
    items = [record.history.item for record in records if record.HasField("history")]
    parsed = [
        {"/".join([i.key, *i.nested_key]).strip("/"): json.loads(i.value_json) for i in row}
        for row in items
    ]
    return {row["_step"]: row for row in parsed}


@pytest.mark.products
def test_the_real_wandb_offline_goes_on_in_its_run(tmp_path, rng):
    script = """if True:
        import sys
        from pathlib import Path
        import numpy as np
        from ragaf_jax.monitoring.writers import WandB
        workdir, numbers = Path(sys.argv[1]), np.load(sys.argv[2])
        for begin in (1, 3):
            writer = WandB("drawings", workdir, {"seed": 7})
            for step in (begin, begin + 1):
                loss, picture = numbers["losses"][step], numbers["pictures"][step]
                writer.scalars(step, {"loss": loss, "fusion/sketch/0-249": loss / 2})
                writer.images(step, {"samples": picture, "attention": 255 - picture})
            writer.text(step, "response", "It is obeyed.")
            writer.close()
    """
    losses = rng.standard_normal(5).astype(np.float32)
    pictures = rng.integers(0, 256, (5, 40, 50, 3), np.uint8)
    np.savez(tmp_path / "numbers.npz", losses=losses, pictures=pictures)
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "numbers.npz")],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    run_id = (tmp_path / "logs" / "wandb_id").read_text()
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    seen = {}
    for file in files:
        records = read_wandb(file)
        (run,) = [record.run for record in records if record.HasField("run")]
        assert (run.run_id, run.project, run.display_name) == (run_id, "drawings", tmp_path.name)
        assert {u.key: u.value_json for u in run.config.update}["seed"] == "7"
        rows = rows_of(records)
        (said,) = [record.alert for record in records if record.HasField("alert")]
        assert (said.title, said.text) == ("response", f"Step {max(rows)}: It is obeyed.")
        for step, row in rows.items():
            seen[step] = row["loss"], row["fusion/sketch/0-249"]
            shown = {"samples": pictures[step], "attention": 255 - pictures[step]}
            for name, expected in shown.items():
                with Image.open(file.parent / "files" / row[f"{name}/path"]) as found:
                    np.testing.assert_array_equal(np.asarray(found), expected)
    assert seen == {step: (losses[step], losses[step] / 2) for step in (1, 2, 3, 4)}


def test_wandb_that_is_not_installed_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'ragaf-jax\[wandb\]'"):
        workdir_writer(with_fields(smallest_config(1), {"wandb_project": "drawings"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_has_logs_and_samples(tmp_path, rng, capsys):
    writer = workdir_writer(with_fields(smallest_config(1), {"train.steps": 10}), tmp_path)
    writer.scalars(10, {"loss": 0.5})
    writer.images(10, {"samples": picture(rng)})
    writer.text(10, "response", "It is obeyed.")
    writer.close()
    assert read_lines(tmp_path / "logs" / "metrics.jsonl") == [
        {"step": 10, "loss": 0.5},
        {"step": 10, "message": "It is obeyed."},
    ]
    assert [event.step for event in read_events(tmp_path / "logs")][1:] == [10, 10, 10]
    assert (tmp_path / "samples" / "0000010_samples.png").exists()
    assert "step 10/10 100%|" in capsys.readouterr().err


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writer = workdir_writer(smallest_config(1), tmp_path)
    writer.scalars(10, {"loss": 0.5})
    writer.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
