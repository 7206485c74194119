"""The benchmark of one accelerator: its parts on a CPU, and what becomes of parts that fail."""

import ast
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT
from fakes import smallest_config

from benchmarks.device import attention, ceiling, processes, run, sampling, steps
from benchmarks.device import part as part_process
from benchmarks.device.part import recorded
from benchmarks.device.parts import BUDGETS, FULL, TINY, Budget, Part, SkippedError
from benchmarks.device.processes import Outcome, environment, reason_to_skip
from benchmarks.device.report import summary, with_ratios
from benchmarks.device.requirements import PACKAGES
from benchmarks.timing import Timed
from ragaf_jax.runtime.gpu_memory import _FRACTIONS, _OTHERS
from ragaf_jax.training.adopt import with_fields

STEP, LARGER = Part("step", 1, 8), Part("step", 1, 16)
# What a part's process does, by the part's kind: it has the path of its file.
MEASURED = """
import json, sys
rows = [{"side": 8, "TFLOP/s": 2.0, "data sheet, TFLOP/s": 4.0}]
open(sys.argv[1], "w").write(json.dumps({"status": "measured", "reason": None, "rows": rows}))
"""
KILLED = "import os; os.kill(os.getpid(), 9)"


@pytest.fixture
def scripts(monkeypatch):
    """The scripts that parts' processes run instead, by kind; others end at once."""
    found = {}

    def command(part, tiny, path):
        code = found.get(part.kind, "raise SystemExit(3)")
        return [sys.executable, "-I", "-S", "-c", code, str(path)]

    monkeypatch.setattr(processes, "command_of", command)
    return found


def test_a_part_that_fails_is_reported_and_the_others_are_measured(scripts, tmp_path, capfd):
    scripts |= {"ceiling": MEASURED, "attention": KILLED}
    path = tmp_path / "new" / "device.json"
    assert run.main(["--tiny", f"--json={path}"]) == 0
    results = json.loads(path.read_text())
    assert set(results["parts"]) == {part.name for part in TINY}
    measured, killed = (results["parts"][name] for name in ("ceiling", "attention"))
    assert measured["status"] == "measured" and measured["rows"][0]["TFLOP/s"] == 2
    assert killed["status"] == "failed" and "ended by signal 9" in killed["reason"]
    assert "ended with status 3" in results["parts"]["step-2-2"]["reason"]
    assert results["tiny"] and results["deadline, s"] == 480
    assert {"python", "jax", "jaxlib", "flax"} == set(results["versions"])
    printed = capfd.readouterr().out
    assert "2 TFLOP/s; the data sheet has 4" in printed
    assert "attention: failed (its process ended by signal 9; see above)" in printed


def test_the_status_is_an_error_only_if_nothing_was_measured(scripts, capfd):
    assert run.main(["--tiny", "ceiling", "attention"]) == 1
    assert "No part could be measured" in capfd.readouterr().err


def test_a_part_beyond_its_limit_is_ended_and_keeps_its_rows(monkeypatch):
    def endless(part, tiny, path):
        path.write_text(json.dumps({"status": "failed", "rows": [{"form": "first"}]}))
        return [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]

    monkeypatch.setattr(processes, "command_of", endless)
    monkeypatch.setitem(BUDGETS, "attention", Budget(expected=0.0, limit=0.1))
    outcomes = processes.run_parts([Part("attention")], False, 480, lambda done: None)
    (outcome,) = outcomes.values()
    assert outcome.status == "timed out" and outcome.reason == "it took more than 0 s"
    assert outcome.rows == [{"form": "first"}]


def test_parts_for_which_no_time_is_left_are_named(scripts, capfd):
    scripts["ceiling"] = MEASURED
    assert run.main(["--tiny", "--deadline=1", "ceiling", "step-2-2"]) == 1
    printed = capfd.readouterr().out
    assert "To measure these alone: bash benchmarks/device.sh ceiling step-2-2" in printed


def test_a_part_is_begun_if_it_fits_what_is_left():
    took = Outcome("measured", None, [{}], 70.0)
    assert reason_to_skip(STEP, {}, 46) is None
    assert reason_to_skip(STEP, {}, 44).status == "skipped"
    # What is known of its kind is better than the guess.
    assert reason_to_skip(LARGER, {STEP: took}, 71) is None
    skipped = reason_to_skip(LARGER, {STEP: took}, 69)
    assert reason_to_skip(LARGER, {STEP: took._replace(status="timed out")}, 69) == skipped
    assert skipped.reason == "69 s are left and it takes about 70 s"


def test_a_larger_batch_than_one_that_did_not_fit_is_not_tried():
    done = {STEP: Outcome("out of memory", "", [])}
    outcome = reason_to_skip(LARGER, done, 480)
    assert outcome.status == "out of memory" and outcome.reason == "batch 8 did not fit"
    for other in (Part("step", 1, 4), Part("step", 2, 16), Part("sample", 1, 16)):
        assert reason_to_skip(other, done, 480) is None


def test_what_was_measured_before_an_error_is_kept(tmp_path, capfd):
    path = tmp_path / "part.json"

    def rows(error):
        yield {"planned peak, GiB": 30}
        assert json.loads(path.read_text())["rows"], "a process may be ended here"
        raise error

    for error, status, reason in (
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GiB"), "out of memory", "RuntimeError: RESOURCE"),
        (ValueError("wrong"), "failed", "ValueError: wrong"),
        (SkippedError("not installed: torch"), "skipped", "not installed: torch"),
    ):
        assert recorded(rows(error), path) == status
        written = json.loads(path.read_text())
        assert written["status"] == status and written["reason"].startswith(reason)
        assert written["rows"] == [{"planned peak, GiB": 30}]


def test_use_of_the_ceilings_is_in_the_table():
    rows = [{"side": n, "TFLOP/s": n / 2, "data sheet, TFLOP/s": 800.0} for n in (800, 1000, 900)]
    step = {"stage": 1, "batch": 4, "TFLOP/s": 200.0}
    parts = {
        "ceiling": {"status": "measured", "rows": rows},
        "step-1-4": {"status": "measured", "rows": [step]},
    }
    found = with_ratios(parts)
    (row,) = found["step-1-4"]["rows"]
    assert row["MFU, %"] == 40 and row["MFU of the data sheet, %"] == 25
    assert "| 200 | 40 | 25 |" in summary({"parts": found})
    del parts["ceiling"]
    assert "| 200 | – | – |" in summary({"parts": with_ratios(parts)})


def test_pytorch_is_compared_with_the_same_job_of_ours():
    def part(**row):
        return {"status": "measured", "reason": None, "rows": [row]}

    parts = {"torch-step-1-8": part(**{"torch, s": 0.5}), "sample-1-1": part(**{"latency, s": 1.2})}
    parts |= {"step-1-8": part(**{"step, s": 0.4}), "torch-sample-1-1": part(**{"torch, s": 1.0})}
    found = with_ratios(parts)
    assert found["torch-step-1-8"]["rows"][0]["ours / torch"] == 0.8
    assert found["torch-sample-1-1"]["rows"][0]["ours / torch"] == 1.2
    del parts["step-1-8"]
    assert with_ratios(parts)["torch-step-1-8"]["rows"][0]["ours / torch"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["step-1-5"], "There is no part 'step-1-5'; choose of ceiling, step-1-4"),
        (["--tiny", "step-1-4"], "There is no part 'step-1-4'; choose of ceiling, attention"),
        (["--deadline=-1"], "--deadline is -1; give seconds above 0"),
        (["--tiny", "--deadline=nan"], "--deadline is nan; give seconds above 0"),
        (["--tiny", "--json=/"], "--json=/ cannot be written: Is a directory; choose another"),
        ([], "JAX finds no GPU or TPU here; install jax[cuda12] or add --tiny"),
    ],
)
def test_what_cannot_be_measured_is_said_first(arguments, words, monkeypatch, capfd):
    monkeypatch.setattr(run, "accelerator", lambda: "cpu")
    assert run.main(arguments) == 1
    assert words in capfd.readouterr().err


def test_missing_packages_are_named_before_anything_runs(monkeypatch, capfd):
    absent = {"no_such_module": "no-such", "nor_this_one": "nor-this"}
    monkeypatch.setattr(run, "PACKAGES", PACKAGES | absent)
    assert run.main(["--tiny"]) == 1
    sentence = "packages are missing: no-such nor-this; install them with `pip install no-such nor"
    assert sentence in capfd.readouterr().err


def module_imports(path):
    """The modules that importing a file imports; what its functions import is not among them."""
    body = [
        node for node in ast.parse(path.read_text()).body if not hasattr(node, "decorator_list")
    ]
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def third_party(names):
    """The packages outside this project and Python that these modules import, directly or not."""
    found, waiting, seen = set(), list(names), set()
    while waiting:
        name = waiting.pop()
        top, path = name.split(".")[0], ROOT.joinpath(*name.split("."))
        files = [x for x in (path.with_suffix(".py"), path / "__init__.py") if x.exists()]
        if not (ROOT / top).exists():
            found |= {top} - set(sys.stdlib_module_names)
        elif files and name not in seen:
            seen.add(name)
            parents = name.split(".")[:-1]
            waiting += [".".join(parents[: n + 1]) for n in range(len(parents))]
            waiting += module_imports(files[0])
    return found


def test_the_packages_that_are_checked_are_those_that_are_imported():
    kinds = ("part", "parts", "ceiling", "attention", "steps", "sampling")
    assert third_party(f"benchmarks.device.{kind}" for kind in kinds) == set(PACKAGES)
    assert third_party(["benchmarks.device.run"]) == set()


def test_one_device_is_measured():
    given = {"CUDA_VISIBLE_DEVICES": "3,4", "HOME": "/root", "JAX_COMPILATION_CACHE_DIR": "old"}
    found = environment(False, "new", given)
    assert found["CUDA_VISIBLE_DEVICES"] == "3" and found["HOME"] == "/root"
    assert found["JAX_COMPILATION_CACHE_DIR"] == "new"  # compiling is timed
    assert environment(False, "new", {})["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment(True, "new", given)["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize("chosen", [{}, {"XLA_CLIENT_MEM_FRACTION": "0.5"}])
def test_a_part_has_the_memory_that_a_command_has(chosen, monkeypatch, tmp_path):
    """JAX refuses both names of the fraction together."""
    for name in (*_FRACTIONS, *_OTHERS):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["part", "ceiling", str(tmp_path / "part.json"), "--tiny"])
    monkeypatch.setattr(part_process, "rows", lambda *_: [{"side": 8}])
    part_process.main()
    fractions = {name: x for name, x in os.environ.items() if name in _FRACTIONS}
    assert fractions == {"XLA_CLIENT_MEM_FRACTION": "0.92", **chosen}


def test_the_full_run_has_every_step_and_sample():
    stages, batches = (1, 2), {"step": (4, 8, 16, 32), "sample": (1, 4)}
    wanted = {Part(kind, s, b) for kind, sizes in batches.items() for s in stages for b in sizes}
    assert wanted <= set(FULL) and len({part.name for part in FULL}) == len(FULL)
    for kind, stage in {(part.kind, part.stage) for part in FULL}:
        sizes = [part.batch for part in FULL if (part.kind, part.stage) == (kind, stage)]
        assert sizes == sorted(sizes)  # a batch that does not fit spares the larger ones


@pytest.fixture
def once(monkeypatch):
    """Everything is run once, and its time is a second."""

    def timed(function, compiled=0.0):
        function()
        return Timed([1.0] * 3, 1.0, 0, None, {})

    for module in (attention, sampling, steps):
        monkeypatch.setattr(module, "timed", timed)


def test_attention_is_compared_with_plain_attention_in_float64(once, monkeypatch):
    case = attention.TINY_CASES[1]
    inputs, weights = attention.random_inputs(case)
    exact = attention.reference(inputs, weights)
    q, k, v, bias = (np.asarray(x, np.float64) for x in inputs)
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(case.size) + bias
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    expected = np.einsum("bhts,bshd->bthd", shares, v)
    np.testing.assert_allclose(exact[0], expected, rtol=1e-12, atol=1e-12)
    expected = np.einsum("bhts,bthd->bshd", shares, np.asarray(weights, np.float64))
    np.testing.assert_allclose(exact[3], expected, rtol=1e-12, atol=1e-12)
    assert [x.dtype for x in exact] == [np.float64] * 5

    def wrong(q, k, v, bias):
        return attention.attention(q, k, v, 1.1 * bias)

    def refuses(*inputs):
        raise ValueError("no kernel for this")

    found = {"ours": attention.attention, "wrong": wrong, "cuDNN": refuses}
    monkeypatch.setattr(attention, "forms", lambda: found)
    monkeypatch.setattr(attention, "TINY_CASES", (case,))
    ours, off, refused = attention.attention_rows(tiny=True)
    errors = [f"error of {name}" for name in attention.OUTPUTS]
    assert all(0 < ours[name] < 2**-7 for name in errors)  # bfloat16 keeps 8 bits
    assert any(off[name] > 2**-5 for name in errors)
    assert refused["refused"] == "ValueError: no kernel for this"
    monkeypatch.setattr(attention, "forms", lambda: {"ours": refuses, "XLA": wrong})
    rows = attention.attention_rows(tiny=True)
    assert next(rows)["refused"] and next(rows)["both passes, ms"]  # the rest is measured, too
    with pytest.raises(ValueError, match="no kernel for this"):
        next(rows)
    assert ours["both passes, ms"] == 500 and refused["both passes, ms"] is None


def smallest(job):
    """The job's configuration with the networks that compile soonest."""
    small = smallest_config(job.stage)
    small.train.read_examples = 0
    return with_fields(small, {"train.batch_size": job.batch})


def test_a_step_is_measured(once, monkeypatch):
    monkeypatch.setattr(steps, "config_of", smallest)
    (row,) = steps.step_rows(1, 2, tiny=True)
    assert row["stage"] == 1 and row["batch"] == 2 and row["images/s"] == 2
    assert row["TFLOP/s"] > 0 and row["planned peak, GiB"] >= row["planned temporaries, GiB"]
    assert row["compiled in, s"] >= row["of which traced, s"] and row["runs"] == 3
    assert np.isfinite(row["loss"])


@pytest.mark.products
@pytest.mark.parametrize("task", ["step", "sample"])
def test_networks_with_encoders_are_measured(once, task):
    rows = steps.step_rows if task == "step" else sampling.sample_rows
    (row,) = rows(1, 1, tiny=True)
    assert row["batch"] == 1 and row["images/s"] == 1 and row["first run, s"] > 0


def test_a_ceiling_has_the_data_sheet_beside_it(monkeypatch):
    monkeypatch.setattr(ceiling, "matmul_ceiling", lambda dtype, side: 1e12 * side)
    monkeypatch.setattr(ceiling, "peak_flops", lambda kind, dtype: 5e14)
    rows = list(ceiling.ceiling_rows(tiny=True))
    assert [row["TFLOP/s"] for row in rows] == list(ceiling.TINY_SIDES)
    assert {row["data sheet, TFLOP/s"] for row in rows} == {500}


@pytest.mark.products
def test_the_script_runs_without_data_sets_and_pytorch(tmp_path):
    """Modules that cannot be imported stand in for what may be missing."""
    for name in ("tensorflow_datasets", "tensorflow", "grain", "diffusers", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not to be imported')\n")
    path = tmp_path / "device.json"
    command = ["bash", str(ROOT / "benchmarks" / "device.sh"), "--tiny", f"--json={path}"]
    command.append("--deadline=36000")  # however busy the machine is
    variables = {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, env=os.environ | variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads(path.read_text())["parts"]
    ours = {name for name in parts if not name.startswith("torch")}
    assert {parts[name]["status"] for name in ours} == {"measured"}
    assert {name.rpartition("-")[0] or name for name in ours} >= {"ceiling", "step-2", "sample-1"}
    assert "images/s" in done.stdout
