"""Wrong command lines end in one sentence and status 1."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import run_here

from configs import photos
from configs.stage1 import get_config
from ragaf_jax.graph.build import GraphConfig
from ragaf_jax.runtime.gpu_memory import _FRACTIONS, _OTHERS, SHARE

ROOT = Path(__file__).parents[1]
STAGE1, STAGE2 = "--config=configs/stage1.py:quickstart", "--config=configs/stage2.py:quickstart"
SD = "--config=configs/stage1.py:openmoji_sd"


def fail(*command):
    """Runs a command that must fail; returns its one-line error."""
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
    assert done.stderr.startswith("error: The file of --config does not exist")
    assert not (ROOT / "run").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((STAGE1, "--config.train.stpes=3"), "stpes"),
        ((STAGE1, "--config.train.steps=many"), "many"),
        (
            ("--config=configs/stage1.py:imagenet",),
            "error: There is no configuration 'imagenet': there are quickstart, openmoji, "
            f"{', '.join(photos.DATASETS)} and, except for the first, the same with _sd and _sdxl.",
        ),
        (("--config=configs/stage2.py:quickstrt",), "with _sd and _sdxl; did you mean quickstart?"),
        ((STAGE1, "--mode=paint"), "paint"),
        ((STAGE1, "--config.data.image_size=33"), "config.data.image_size is 33; networks of 2"),
        ((STAGE1.replace("quickstart", "coco"), "--config.data.dir=nowhere"), "run: python -m inp"),
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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--output=out",),
            "--output is for --mode=sample and evaluate, and the mode is train",
        ),
        (("--compare=a",), "--compare is for --mode=evaluate, and the mode is train"),
        (("--mode=sample", "--compare=a"), "--compare is for --mode=evaluate"),
        (
            ("--checkpoint=best",),
            "--checkpoint is for --mode=sample and evaluate, and the mode",
        ),
        (("--mode=sample", "--checkpoint=last"), "--checkpoint is 'last'; give newest, best or"),
        (("--config.stage1_checkpoint=5.5",), "config.stage1_checkpoint is '5.5'; give newest,"),
        (("--mode=evaluate", "--profile=1:2"), "--profile is for --mode=train"),
        (("--mode=evaluate", "--distributed"), "--distributed is for --mode=train"),
        (("--mode=adopt", "--process_count=2"), "--process_count is for --mode=train"),
        (("--target=h200",), "--target is for --mode=plan, and the mode is train"),
        (("--mode=sample", "--plan_for=sample"), "--plan_for is for --mode=plan"),
        (("--mode=plan", "--plan_for=sample"), "--plan_for requires --target"),
        (("--mode=plan", "--target=h200", "--per_device=2"), "--per_device is for --plan_for"),
        (("--mode=plan", "--target="), "--target= has an empty name; give comma-"),
        (("--mode=plan", "--target=h200,"), "--target=h200, has an empty name; give comma-"),
        (
            ("--mode=plan", "--workdir=run"),
            "--workdir is for --mode=train, both, sample, evaluate and adopt, and the mode is ",
        ),
        (("--mode=both", "--profile=1:2"), "--profile is for --mode=train, and the mode is bo"),
        (("--mode=both",), "stage1.py:quickstart; --mode=both needs the configuration of Stage 2"),
        (("--mode=adopt",), "--mode=adopt has no default folder; give --workdir=<a new folder>"),
    ],
)
def test_flags_of_another_mode_are_refused(flags, said):
    assert said in fail("main.py", STAGE1, *flags)


@pytest.fixture
def trainings(monkeypatch):
    """(stage, workdir, Stage 1's, steps) of each training, instead of which it is listed alone."""
    seen = []

    def train(config, workdir, *others):
        others[-1].stop_requested = ASKED in str(workdir)  # the interruption
        seen.append((config.stage, str(workdir), config.stage1, config.train.steps))
        return SimpleNamespace(step=config.train.steps if STOPPED not in str(workdir) else 1)

    source = SimpleNamespace(tokenizer=None, prepared_caches=None)
    for name, stand_in in {
        "input_pipeline.configured.open_split": lambda *_: source,
        "input_pipeline.configured.held_out": lambda *_: (None, None),
        "input_pipeline.preparation.automatic.prepare_openmoji": lambda data: None,
        "ragaf_jax.evaluation.responses.make_responses": lambda *_: None,
        "ragaf_jax.runtime.processes.only_training_in": contextlib.nullcontext,
        "ragaf_jax.evaluation.sample_grid.make_grid": lambda *_: None,
        "ragaf_jax.training.loop.train": train,
        "ragaf_jax.training.setup.check_start": lambda *_: None,
    }.items():
        monkeypatch.setattr(name, stand_in)
    return seen


STOPPED, ASKED, ONE, TWO = "stopped", "asked", "runs/quickstart/stage1", "runs/quickstart/stage2"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((STAGE1,), [(1, ONE, "", 800)]),
        ((STAGE2,), [(2, TWO, ONE, 620)]),
        (("--config=configs/stage2.py",), [(2, TWO.replace("quickstart", "openmoji"), None, 1500)]),
        ((STAGE2, "--workdir=a/my_stage2"), [(2, "a/my_stage2", "a/my_stage1", 620)]),
        ((STAGE2, "--workdir=a/other"), [(2, "a/other", "", 620)]),
        ((STAGE2, "--config.stage1=b"), [(2, TWO, "b", 620)]),
        ((STAGE2, "--mode=both"), [(1, ONE, "", 800), (2, TWO, ONE, 620)]),
        (
            (STAGE2, "--mode=both", "--workdir=a", "--config.train.steps=9"),
            [(1, "a/stage1", "", 9), (2, "a/stage2", "a/stage1", 9)],
        ),
        # Stage 1 was ended by a signal; then a signal came after its last step.
        ((STAGE2, "--mode=both", f"--workdir={STOPPED}"), [(1, f"{STOPPED}/stage1", "", 800)]),
        ((STAGE2, "--mode=both", f"--workdir={ASKED}"), [(1, f"{ASKED}/stage1", "", 800)]),
    ],
)
def test_where_runs_lie_and_which_stage_1_is_theirs(trainings, flags, expected):
    done = run_here("main.py", *flags)
    assert done.status == 0, done.stderr
    assert len(trainings) == len(expected)
    for found, wanted in zip(trainings, expected, strict=True):
        stage1 = wanted[1].replace("stage2", "stage1") if wanted[2] is None else wanted[2]
        assert found == (*wanted[:2], stage1, wanted[3])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--config.stage1=a",), "config.stage1 is a, and --mode=both trains its own Stage 1"),
        (("--config.train.batch_size=0",), "config.train.batch_size is 0"),
    ],
)
def test_both_stages_are_checked_before_one_is_trained(trainings, flags, said):
    assert said in fail("main.py", STAGE2, "--mode=both", *flags)
    assert trainings == []


def test_stage_2_is_refused_before_its_data_are_prepared(tmp_path):
    said = fail("main.py", STAGE2, f"--workdir={tmp_path / 'stage2'}", "--config.data.dir=nowhere")
    assert (
        f"{tmp_path / 'stage1'} holds no checkpoint; train Stage 1 first, both stages with --mode="
        in said
    )
    said = fail("main.py", STAGE2, f"--workdir={tmp_path / 'run'}", "--config.data.dir=nowhere")
    assert "config.stage1 is empty; give --config.stage1=<workdir of Stage 1>" in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def preparations(monkeypatch):
    """What would be prepared."""
    seen = []
    monkeypatch.setattr(
        "input_pipeline.preparation.preparing.prepare",
        lambda name, folder, options, running: seen.append((name, str(folder), options)),
    )
    return seen


def test_only_openmoji_prepares_itself_and_not_for_several_processes(
    tmp_path, monkeypatch, preparations
):
    flags = [f"--workdir={tmp_path / 'run'}", f"--config.data.dir={tmp_path / 'data'}"]
    flags += ["--config.data.regions=ink", "--config.data.recolorings=4"]
    flags += ["--config.data.graph.kind=knn"]
    said = "There is no data in"
    assert said in fail("main.py", STAGE1, *flags)
    (found,) = preparations
    assert found[:2] == ("openmoji/recolor", str(tmp_path / "data"))
    assert (found[2].size, found[2].recolorings, found[2].regions) == (64, 4, "ink")
    assert found[2].limit == 0 and found[2].graph == GraphConfig("knn")
    assert said in fail("main.py", STAGE1, *flags, "--config.data.dataset=coco")
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("ragaf_jax.runtime.processes.agreed", lambda value: value)
    assert said in fail("main.py", STAGE1, *flags)
    assert len(preparations) == 1


def test_plans_are_made_once_and_with_the_memory_that_training_takes(monkeypatch):
    planned, raised = [], []
    monkeypatch.setattr(
        "ragaf_jax.planning.target_table.print_target_plans",
        lambda config, names, budget: planned.append(names),
    )
    monkeypatch.setattr("ragaf_jax.runtime.gpu_memory.raise_share", lambda: raised.append(1))
    monkeypatch.setattr(
        "ragaf_jax.planning.table.print_plan", lambda *_: planned.append(raised.copy())
    )
    assert run_here("main.py", SD, "--mode=plan", "--target=h200,l4,h200").status == 0
    assert run_here("main.py", SD, "--mode=plan").status == 0
    assert planned == [["h200", "l4"], [1]]


def test_fields_of_the_command_go_before_a_distilled_checkpoints(tmp_path, monkeypatch):
    """Of adopt, and of evaluate, which samples with its own command's config.sample."""
    adopted, evaluated = [], []
    monkeypatch.setattr(
        "ragaf_jax.training.untrained.write_untrained",
        lambda config, workdir, given: adopted.append(given),
    )
    flags = [f"--workdir={tmp_path}", "--config.sample.steps=2"]
    assert run_here("main.py", SD, "--mode=adopt", *flags).status == 0
    assert dict(adopted[0]) == {"sample.steps": 2}
    meta = {"config": {"data": {"dir": "data"}, "diffusion": {"distilled_steps": 4}}}
    monkeypatch.setattr("ragaf_jax.checkpoints.reading.load_meta", lambda workdir: meta)
    monkeypatch.setattr(
        "ragaf_jax.evaluation.evaluate.evaluate", lambda config, *_: evaluated.append(config.sample)
    )
    for given, steps in ((flags[:1], 4), (flags, 2)):
        assert run_here("main.py", SD, "--mode=evaluate", *given).status == 0
        sample = evaluated.pop()
        assert (sample.sampler, sample.steps, sample.guidance) == ("euler", steps, 1.0)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A workdir whose checkpoint records 32 px and data in a folder of their own."""
    config = get_config("quickstart")
    (tmp_path / "data").mkdir()
    config.data.update({"image_size": 32, "recolorings": 2, "dir": str(tmp_path / "data")})
    meta = {"config": config.to_dict()}
    for place in ("checkpoints.reading", "training.adopt"):
        monkeypatch.setattr(f"ragaf_jax.{place}.load_meta", lambda workdir: meta)
    return tmp_path / "run"


def test_a_repeated_training_names_changed_fields_before_it_looks_for_data(trained, preparations):
    said = fail("main.py", STAGE1, f"--workdir={trained}")
    assert (
        f"config.data.image_size was 32 when {trained} was started and is 64 now; config." in said
    )
    assert "config.data.recolorings was 2 and is 16 now: repeat the command with the old" in said
    said = fail("main.py", STAGE2, f"--workdir={trained}")
    assert f"{trained} holds Stage 1 and this configuration trains Stage 2; give Stage 2" in said
    assert preparations == []
    same = "--config.data.image_size=32", "--config.data.recolorings=2"
    said = fail("main.py", STAGE1, f"--workdir={trained}", *same)
    assert f"There is no data in {trained.parent / 'data'}/" in said
    said = fail("main.py", STAGE1, f"--workdir={trained}", *same, "--config.data.dir=nowhere")
    assert "There is no data in nowhere/" in said


def test_evaluation_reads_the_data_that_the_run_was_trained_with(trained, monkeypatch):
    read = []
    monkeypatch.setattr(
        "ragaf_jax.evaluation.evaluate.evaluate", lambda config, *_: read.append(config.data.dir)
    )
    command = "main.py", STAGE1, "--mode=evaluate", f"--workdir={trained}"
    done = run_here(*command)
    assert f"config.data.dir is {trained.parent / 'data'}, as in the training of" in done.stderr
    assert run_here(*command, "--config.data.dir=other").stderr == ""
    (trained.parent / "data").rmdir()
    assert "which does not exist; config.data.dir is data instead" in run_here(*command).stderr
    assert read == [str(trained.parent / "data"), "other", "data"]


@pytest.mark.parametrize("mode", ["evaluate", "sample"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.dataset", "coco"),
        ("data.text_length", 9),
        ("data.graph.kind", "knn"),  # which these checkpoints are too old to record
        ("model.unet.block_out_channels", "(8,)"),
    ],
)
def test_fields_that_the_checkpoint_decides_are_refused(mode, field, value):
    pretrained = ROOT / "pretrained" / "openmoji"
    command = ["main.py", "--config=configs/stage2.py:openmoji", f"--mode={mode}"]
    command += [f"--workdir={pretrained / 'stage2'}", f"--config.stage1={pretrained / 'stage1'}"]
    said = fail(*command, f"--config.{field}={value}")
    assert f"config.{field} is " in said and f"{mode} takes it from the checkpoint" in said


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--sampler=plms", "sampler is 'plms'; choose one of ddim"),
        ("--strength=1.5", "strength is 1.5; choose 0 to 1"),
        ("--guidance=nan", "guidance is nan"),
        ("--steps=0", "steps is 0; choose a whole number, 1 or more"),
        ("--count=0", "count is 0; choose 1 to 1000"),
        ("--seed=-1", "The seed is -1"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_settings_are_refused_before_a_checkpoint_is_read(tmp_path, flag, said, many):
    from PIL import Image

    Image.new("L", (1, 1), 255).save(tmp_path / "sketch.png")
    if many:
        request = [f"--sketches={tmp_path}", f"--prompts={tmp_path / 'none.txt'}"]
        said = "count is for" if "count" in flag else said
    else:
        request = [f"--sketch={tmp_path / 'sketch.png'}", "--prompt="]
    stages = [f"--stage{i}={tmp_path / 'nowhere'}" for i in (1, 2)]
    line = fail("ragaf_jax.sample", *stages, *request, f"--output={tmp_path / 'out'}", flag)
    assert said in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sketches={d}", "--output={d}"], "the folder of the sketches; choose another, such"),
        (["--sketches={d}", "--output={d}/b/.."], "the folder of the sketches; choose another"),
        (["--sketches={d}", "--region=1=red"], "set the field 'regions' of --prompts, a .csv"),
        (["--sketches={d}", "--prompt=a"], "set the field 'prompt' of --prompts, a .csv"),
        *(
            (["--sketches={d}", f"--{flag}"], "is for one sketch and --sketches gives many; leave")
            for flag in ("count=2", "merge=1,2", "image={d}/a.png", "labels=a", "sketch={d}/a.png")
        ),
        (["--sketches={d}"], "a.png has no prompt: {d}/a.txt does not exist; create it, or"),
        (["--sketches={d}"], "the prompts of all sketches to ragaf_jax.sample by --prompts"),
        (["--sketch={d}/a.png", "--prompts=p.txt"], "--prompts is for the sketches of --sketches"),
        (["--sketch={d}/a.png", "--per_device=2"], "--per_device is for the sketches of --sketch"),
        (
            ["--sketch={d}/a.png", "--region=3=red", "--merge=2,3"],
            "Region 3 is part of region 2 after --merge; give that one the region prompt: --region",
        ),
        (
            ["--sketch={d}/a/sketch.png", "--prompt=", "--output={d}/a"],
            "/a/sketch.png, which lies in --output and would be replaced; choose another --output",
        ),
    ],
)
def test_flags_that_exclude_each_other_are_refused_before_a_checkpoint_is_read(
    tmp_path, flags, said
):
    from PIL import Image

    folder = tmp_path / "sketches"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    for name in ("a.png", "a/sketch.png"):
        Image.new("L", (1, 1), 255).save(folder / name)
    flags = [f"--stage1={tmp_path}", f"--output={tmp_path / 'out'}", *flags]
    line = fail("ragaf_jax.sample", *(flag.format(d=folder) for flag in flags))
    assert said.format(d=folder) in line
    assert (folder / "a" / "sketch.png").exists()


def test_strength_without_an_image_is_reported():
    from ragaf_jax.sampling.command.flag_checks import unused_strength

    (notice,) = unused_strength({"strength"}, "1", False)
    assert notice == "--strength has no effect: without --image, Stage 1 starts from noise."
    for given, stages, image in ((set(), "1", False), ({"strength"}, "both", False)):
        assert unused_strength(given, stages, image) == []
    assert unused_strength({"strength"}, "2", True) == []


def test_the_words_that_a_model_knows(tmp_path):
    done = run_here(
        "ragaf_jax.sample", "--vocabulary", f"--stage2={ROOT / 'pretrained/openmoji/stage2'}"
    )
    assert done.status == 0
    assert {"house", "red", "large", "middle"} <= set(done.stdout.split())
    assert "none in None" in fail("ragaf_jax.sample", "--vocabulary")
    assert f"none in {tmp_path}" in fail("ragaf_jax.sample", "--vocabulary", f"--stage1={tmp_path}")


@pytest.fixture
def no_share(monkeypatch):
    """A user who has not set how JAX takes a GPU's memory, which `benchmarks.run` does."""
    for name in (*_FRACTIONS, *_OTHERS):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(("given", "expected"), [("", str(SHARE)), ("0.5", "0.5")])
def test_a_command_takes_more_of_a_gpu_unless_the_user_has_set_it(
    tmp_path, monkeypatch, no_share, given, expected
):
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", given)
    said = fail("main.py", STAGE1, "--mode=evaluate", f"--workdir={tmp_path / 'run'}")
    assert "Evaluation needs both stages" in said
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == expected


def test_sampling_from_a_workdir_without_a_checkpoint(tmp_path, no_share):
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
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == str(SHARE)  # before JAX looks for a GPU
