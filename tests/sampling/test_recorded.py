"""A metadata.json repeats its output, or an error gives the reason why it cannot."""

import json

import pytest
from commands import run_here
from PIL import Image

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.recorded import checkpoint_notices, comparable, file_facts, read_recorded


@pytest.fixture
def files(tmp_path):
    for name in ("sketch", "labels"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    return {name: tmp_path / f"{name}.png" for name in ("sketch", "labels")}


def written(folder, **entries):
    path = folder / "metadata.json"
    path.write_text(json.dumps({"prompt": "a house", **entries}), encoding="utf-8")
    return path


def test_every_input_becomes_a_flag(tmp_path, files):
    stage2 = {"workdir": "runs/stage2", "checkpoint_step": 7, "config": {"stage": 2}}
    path = written(
        tmp_path,
        region_prompts={"3": "red=brick"},
        region_negative_prompts={"2": "blue"},
        merge=["2,7"],
        seed=5,
        guidance=3.5,
        stages="both",
        image=None,
        stage2=stage2,
        **file_facts({**files, "image": None}),
    )
    expected = {
        "prompt": "a house",
        "region": ["3=red=brick"],
        "negative_region": ["2=blue"],
        "merge": ["2,7"],
        "seed": "5",
        "guidance": "3.5",
        "stages": "both",
        "stage2": "runs/stage2",
        "sketch": str(files["sketch"]),
        "labels": str(files["labels"]),
        "crop": "False",  # not recorded
    }
    assert read_recorded(path, ()) == (expected, {2: 7})
    assert read_recorded(tmp_path, ()).flags == expected  # the output's folder
    flags, steps = read_recorded(path, {"region", "seed", "stage2"})
    assert flags == {k: v for k, v in expected.items() if k not in ("region", "seed", "stage2")}
    assert steps == {}


def test_input_files_are_recorded_by_absolute_paths(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = file_facts({"sketch": "sketch.png"})
    assert facts["sketch"] == str(files["sketch"])
    path = written(tmp_path, **facts)
    monkeypatch.chdir("/")
    assert read_recorded(path, ()).flags["sketch"] == str(files["sketch"])
    with pytest.raises(UserError, match=r"^The sketch none.png cannot be read \(No such file"):
        file_facts({"sketch": "none.png"})


def test_the_same_inputs_compare_equal_however_their_paths_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = {"sketch": "a.png", "sketch_sha256": "1", "stage1": {"workdir": "runs/1", "x": 2}}
    absolute = {
        **relative,
        "sketch": f"{tmp_path}/a.png",
        "stage1": {"workdir": f"{tmp_path}/runs/1", "x": 2},
    }
    assert comparable(relative) == comparable(absolute)
    for changed in ({"sketch_sha256": "2"}, {"stage1": {"workdir": "runs/2", "x": 2}}):
        assert comparable({**relative, **changed}) != comparable(absolute)
    one, moved, other = (
        comparable({"embeddings": [{"path": path, "sha256": digest}]})
        for path, digest in (("a", "1"), ("b", "1"), ("a", "2"))
    )
    assert one == moved != other


def test_embeddings_become_flags_and_are_compared(tmp_path, files):
    digest = file_facts({"sketch": files["sketch"]})["sketch_sha256"]
    entry = {"path": str(files["sketch"]), "sha256": digest}
    path = written(tmp_path, embeddings=[entry, entry])
    assert read_recorded(path, ()).flags["embedding"] == [entry["path"]]
    written(tmp_path, embeddings=[{**entry, "sha256": "1"}])
    with pytest.raises(UserError, match="The embedding .* has changed since .* by --embedding=<fi"):
        read_recorded(path, ())
    assert "embedding" not in read_recorded(path, {"embedding"}).flags
    written(tmp_path, embeddings=["a.safetensors"])
    with pytest.raises(UserError, match="embeddings is .*; give --embedding, which overrides it"):
        read_recorded(path, ())


def test_outputs_of_older_versions_are_recognised():
    """Their configurations lack fields that checkpoints have today."""
    older = {"stage1": {"workdir": "/runs/1", "config": {"data": {"image_size": 64}}}}
    data = {"image_size": 64, "regions": "strokes", "buckets": []}
    data["graph"] = {"kind": "hybrid", "k": 3, "radius": 0.25}
    newer = {"stage1": {"workdir": "/runs/1", "config": {"data": data}}}
    assert comparable(older) == comparable(newer)
    data["graph"]["kind"] = "knn"
    assert comparable(older) != comparable(newer)


def test_an_input_that_is_gone_or_changed_is_named(tmp_path, files):
    path = written(tmp_path, **file_facts(files))
    files["labels"].write_bytes(b"edited")
    said = r"^The labels .*labels.png has changed since .* \(its SHA-256 begins with \w{8}, not "
    with pytest.raises(UserError, match=said):
        read_recorded(path, ())
    read_recorded(path, {"labels"})
    files["sketch"].unlink()
    said = r"^The sketch .* records cannot be read \(No such file .*; give --sketch=<its new path"
    with pytest.raises(UserError, match=said):
        read_recorded(path, {"labels"})
    assert "sketch" not in read_recorded(path, {"labels", "sketch"}).flags


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"cannot be read \(Expecting .*\); give --from=<the metadata.json of an output>"),
        ("[]", "records no prompt; give"),
        ('{"seed": 3}', "records no prompt; give"),
        ('{"prompt": "", "region_prompts": [3]}', "region_prompts is not an object of texts; give"),
        ('{"prompt": "", "region_prompts": {"3": null}}', "is not an object of texts; give"),
        ('{"prompt": "", "merge": "2,7"}', "merge is not a list; give"),
    ],
)
def test_what_is_no_metadata_is_refused(tmp_path, content, said):
    (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read_recorded(tmp_path / "metadata.json", ())


@pytest.mark.parametrize(
    ("entries", "flags", "said"),
    [
        ({"seed": "many"}, (), "records a value that --seed does not accept"),
        ({}, (), "No sketch is given; give --sketch=<file>"),
        ({}, ["--sketches=folder"], "--from repeats one output and --sketches samples many"),
        (
            {"neck_splits": -1},
            ["--sketch={sketch}", "--stage1=none"],
            "neck_splits is -1.0; choose",
        ),
    ],
)
def test_a_command_that_cannot_repeat_says_why(tmp_path, entries, flags, said):
    Image.new("L", (64, 64), 255).save(tmp_path / "sketch.png")
    flags = [flag.format(sketch=tmp_path / "sketch.png") for flag in flags]
    path = written(tmp_path, **entries)
    ended = run_here("ragaf_jax.sample", f"--from={path}", f"--output={tmp_path / 'out'}", *flags)
    assert ended.status == 1 and said in ended.stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "newest,7"),  # Stage 1's is not kept
        (["--stage2={workdir}"], "newest,newest"),
        (["--checkpoint=best"], "best"),
        (["--checkpoint=newest,9"], "newest,9"),
    ],
)
def test_the_checkpoints_of_the_recorded_steps_are_read_again(
    tmp_path, monkeypatch, flags, expected
):
    Image.new("L", (64, 64), 255).save(tmp_path / "sketch.png")
    stages = {}
    for number in (1, 2):
        workdir = tmp_path / f"stage{number}"
        for step in (7, 9) if number == 2 else (9,):
            (workdir / "checkpoints" / str(step)).mkdir(parents=True)
        stages[f"stage{number}"] = {"workdir": str(workdir), "checkpoint_step": 7}
    path = written(tmp_path, sketch=str(tmp_path / "sketch.png"), **stages)
    chosen = []

    def restore(*workdirs, checkpoint, **_):
        chosen.append(checkpoint)
        raise UserError("enough")

    monkeypatch.setattr("ragaf_jax.sampling.pipeline.Pipeline.restore", restore)
    flags = [flag.format(workdir=tmp_path / "stage2") for flag in flags]
    run_here("ragaf_jax.sample", f"--from={path}", f"--output={tmp_path / 'out'}", *flags)
    assert chosen == [expected]


def test_a_stage_that_was_trained_further_is_told_of():
    assert checkpoint_notices({1: 5, 2: 7}, {2: 7}) == []
    (notice,) = checkpoint_notices({1: 5, 2: 7}, {1: 5, 2: 9})
    assert notice.startswith("The checkpoint of Stage 2 has step 9, but the recorded output used")
