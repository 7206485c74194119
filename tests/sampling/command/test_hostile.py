"""Hundreds of commands and calls with wrong inputs end in one sentence each, without output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import SMALLEST, random_stage, save_stage

TESTS = Path(__file__).parents[2]


@pytest.fixture
def stages(tmp_path):
    """Workdirs. Sketch guidance is the default, so that no command compiles another program."""
    usual = SMALLEST | {"sample.sketch_guidance": 2.0}
    return [save_stage(random_stage(i, **usual), tmp_path / f"stage{i}") for i in (1, 2)]


@pytest.mark.slow
def test_what_nobody_should_give_ends_in_a_sentence_or_an_image(stages, tmp_path):
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, TESTS / "support/hostile_commands.py", *stages, tmp_path / "work"],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS / "support")])},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert len(ends) > 100 and ends["and at last"] == "sampled"
    for name, end in ends.items():
        assert "not caught" not in end, name
        assert end.count("\n") == 0 and len(end) < 500, name
    sampled = {name for name, end in ends.items() if end == "sampled"}
    readable = {"whole.png", "whole.jpg", "no_suffix", "deep.png", "bits.png", "cmyk.jpg"}
    assert {f"sketch {name}" for name in readable} <= sampled
    refused = {"empty.png", "text.png", "bomb.png", "truncated.png", "pickle.png", "folder.png"}
    assert not {f"sketch {name}" for name in refused} & sampled
    # The whole one, those whose fault a flag overrides (--steps, --stage1), and nulls.
    repeated = {name.rpartition("/")[2] for name in sampled if name.startswith("from ")}
    assert repeated == {f"record{i}.json" for i in (0, 2, 9, 10, 20)}
    assert not any(name.startswith("setting") and "=nan" in name for name in sampled)
    calls = {name.split("=")[0] for name in sampled if name.startswith("call ")}
    assert {"call steps", "call loras", "call controls"} <= calls and "call nothing" not in calls
