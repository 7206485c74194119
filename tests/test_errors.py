"""The output and status at the end of a command."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from ragaf_jax.errors import nearest, notify

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        ("UserError('The thing is 3; make it 4.')", 1, "error: The thing is 3; make it 4.\n"),
        (
            "OSError(28, 'No space left on device', 'a/b')",
            1,
            "error: a/b cannot be used: No space left on device; choose another path.\n",
        ),
        (
            "PermissionError(13, 'Permission denied', '/data')",
            1,
            "error: /data cannot be used: Permission denied; choose another path.\n",
        ),
        ("KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(raised, status, said):
    script = f"""if True:
        from ragaf_jax.errors import UserError, run_cli
        def main(argv):
            raise {raised}
        run_cli(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, said)


SENTENCE = (
    "error: The folder /data/a-long-name/that-nobody-should-break/checkpoints holds no whole "
    "checkpoint; give --workdir=<one-that-does> or train it first."
)


@pytest.mark.parametrize("columns", [0, 12, 40, 80, 300])
def test_a_terminal_gets_lines_broken_between_words(monkeypatch, columns):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    notify(f"{SENTENCE}\nA second line.")
    *lines, last = terminal.getvalue().splitlines()
    assert " ".join(lines) == SENTENCE and last == "A second line."
    # Paths and flags that can be copied are not broken.
    assert all(len(line) <= max(columns, 80) or " " not in line for line in lines)
    if columns >= 12:
        assert all(len(line) <= max(columns, 20) or " " not in line for line in lines)


def test_a_log_gets_a_sentence_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    notify(SENTENCE)
    assert capsys.readouterr().err == f"{SENTENCE}\n"


def test_a_warning_is_printed_above_the_progress_bar_without_a_prefix():
    script = """if True:
        import logging
        from absl import logging as absl_logging
        from tqdm import tqdm
        from ragaf_jax.errors import run_cli
        def main(argv):
            absl_logging.set_verbosity(absl_logging.WARNING)
            logging.getLogger("orbax").warning("Of others.")
            bar = tqdm(total=2, ncols=40)
            logging.getLogger("ragaf_jax.checkpoints.checkpointer").warning("It waited %d s.", 2)
            bar.close()
        run_cli(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [line.rpartition("\r")[2] for line in done.stderr.splitlines()]
    assert "It waited 2 s." in lines and done.stderr.count("waited") == 1
    assert any(line.startswith("W") and line.endswith("] Of others.") for line in lines)


def test_a_mistake_of_ours_keeps_its_traceback():
    script = "from ragaf_jax.errors import run_cli\nrun_cli(lambda argv: 1 / 0)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


def parse(*flags):
    """The error of a command with `--config` and these flags, or "fine"."""
    script = """if True:
        from ml_collections import config_flags
        from ragaf_jax.errors import run_cli
        config_flags.DEFINE_config_file("config")
        run_cli(lambda argv: print("fine"))
    """
    command = [sys.executable, "-c", script, "--config=configs/stage1.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if done.stdout == "fine\n" else 1)
    return done.stdout.strip() or done.stderr.strip()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config.train.batchsize=3"], "train.batchsize; did you mean config.train.batch_size?"),
        (["--config.train.batchsize", "3"], "batchsize; did you mean config.train.batch_size?"),
        (["--config.trian.steps=4"], "trian.steps; the nearest are config.train.steps, config.dif"),
        (["--config.batch_size=3"], "config.batch_size; did you mean config.train.batch_size?"),
        (["--config.data.dir[0]=3"], "data.dir[0]; did you mean config.data.dir?"),
        (["--config.train.lr=1"], "config.train.lr; there are config.train.accumulation, config."),
        (["--config.qqq=1"], "There is no field config.qqq; there are config.best_metric, config."),
        (["--config.train.steps=4", "--config.seeed=1"], "did you mean config.seed?"),
    ],
)
def test_a_field_that_is_not_there(flags, said):
    line = parse(*flags)
    assert line.startswith("error: There is no field config.")
    assert said in line and len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("train.steps=many", "train.steps cannot be 'many': it is a whole number, such as 2500."),
        ("train.steps=2.5", "train.steps cannot be '2.5': it is a whole number, such as 2500."),
        ("sample.guidance=a", "sample.guidance cannot be 'a': it is a number, such as 3.0."),
        (
            "data.buckets=64x64,48x80",
            "data.buckets cannot be '64x64,48x80': it is a list, such as ('64x64', …).",
        ),
        ("diffusion.min_snr_gamma=a", "diffusion.min_snr_gamma cannot be 'a': it is a number."),
        (
            "mesh=4",
            "mesh is a section and cannot be '4'; give its fields: --config.mesh.data, "
            "--config.mesh.frozen, --config.mesh.fsdp.",
        ),
    ],
)
def test_a_field_of_another_type(flag, said):
    assert parse(f"--config.{flag}") == f"error: config.{said}"


def test_what_the_configuration_can_be():
    assert parse("--config.train.steps=3", "--config.train.trainable=('a', 'b')") == "fine"


def test_the_nearest_come_first():
    known = ["sample.steps", "train.steps", "train.batch_size", "mesh.data"]
    assert nearest("trian.steps", known) == ["train.steps", "sample.steps"]
    assert nearest("Train.BatchSize", known) == ["train.batch_size"]
    assert nearest("qqq", known) == []
