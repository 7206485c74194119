"""Evaluation as a whole, on two tiny stages and made-up drawings."""

import json

import numpy as np
import pytest
from fakes import random_batch, random_stage, save_stage, tiny_config, tiny_tokenizer
from PIL import Image

from ragaf_jax.batch import Truth
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.evaluate import evaluate
from ragaf_jax.training.writers import JsonLines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two stages as training leaves them: checkpoints and logs."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in (1, 2):
        workdir = save_stage(random_stage(stage), folder / f"stage{stage}")
        writer = JsonLines(workdir / "logs" / "metrics.jsonl")
        writer.scalars(1, {"loss": 0.5})
        writer.close()
    return folder


def drawings(rng, config, count):
    batch, side = random_batch(rng, config, count), config.data.image_size
    labels = np.zeros((count, side, side), np.uint8)
    labels[:, 4:12, 4:12] = 1
    sketch = np.full((count, side, side), 255, np.uint8)
    sketch[:, 3, 3:13] = sketch[:, 12, 3:13] = 0
    images = ((batch.image + 1) * 127.5).astype(np.uint8)
    colors = rng.integers(0, 11, (count, 1)).astype(np.int32)
    return batch, Truth(images, sketch, labels, colors, ("a house",) * count, ("k",) * count)


@pytest.mark.parametrize("count", [2, 9])
def test_both_stages_are_measured_and_shown(rng, trained, tmp_path, capsys, count):
    config = tiny_config(2)
    config.stage1, config.sample.steps = str(trained / "stage1"), 2
    asked = []

    def open_held_out(found, tokenizer):
        asked.append((found.data.text_length, tokenizer.to_json()))
        return drawings(rng, found, count)

    evaluate(config, trained / "stage2", open_held_out, tmp_path / "out")
    assert asked == [(12, tiny_tokenizer().to_json())]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "contact_sheet.png",
        "curves.png",
        "metrics.json",
    }
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["drawings"] == count
    assert metrics["sample"]["steps"] == 2
    assert metrics["quality"]["stage 1"]["parts"] == count
    assert set(metrics["validation"]["stage 2"]) - set(metrics["validation"]["stage 1"]) == {
        "shuffled_graph"
    }
    said = capsys.readouterr().out.splitlines()
    assert said[-1].endswith("contact_sheet.png")
    assert sum("edge F1" in line and "color accuracy" in line for line in said) == 2
    # As wide for two drawings as for nine, of which eight are shown.
    width, height = Image.open(tmp_path / "out" / "contact_sheet.png").size
    assert width > 900 and (height < 600) == (count == 2)


def test_it_wants_a_stage_2_and_its_stage_1(rng, trained, tmp_path):
    config = tiny_config(1)
    with pytest.raises(UserError, match="Evaluation compares two stages and was given Stage 1"):
        evaluate(
            config,
            trained / "stage1",
            lambda found, tokenizer: drawings(rng, found, 2),
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()
