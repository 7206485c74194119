"""Held-out drawings to be looked at, from two tiny stages."""

import numpy as np
import pytest
from fakes import SMALLEST, random_stage, save_stage, smallest_config
from PIL import Image
from quarters import quarters
from shared_programs import shared

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.report import showcase as module
from ragaf_jax.evaluation.report.showcase import showcase
from ragaf_jax.sampling import loaded_stages


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for number in (1, 2):
        save_stage(random_stage(number, **SMALLEST), folder / f"stage{number}")
    return folder


@pytest.fixture
def asked(runs):
    config = smallest_config(2)
    config.stage1, config.sample.steps = str(runs / "stage1"), 2
    return config


def shown(rng, drawings, others):
    def open_shown(config, tokenizer):
        batch, truth = quarters(rng, config, drawings + others)
        keys = tuple(f"key{i}" for i in range(drawings + others))
        images = ((batch.image + 1) * 127.5).astype(np.uint8)
        return batch, truth._replace(image_u8=images, keys=keys), drawings

    return open_shown


def test_two_sheets_are_written_and_replaced(rng, runs, asked, tmp_path, capsys, monkeypatch):
    make = shared(loaded_stages.make_stage_sampler)
    monkeypatch.setattr(loaded_stages, "make_stage_sampler", make)
    output = tmp_path / "out"
    showcase(asked, runs / "stage2", shown(rng, 3, 2), output)
    assert {path.name for path in output.iterdir()} == {"drawings.png", "colorings.png"}
    assert capsys.readouterr().out.splitlines() == [
        str(output / "drawings.png"),
        str(output / "colorings.png"),
    ]
    sizes = [Image.open(output / name).size for name in ("drawings.png", "colorings.png")]
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] > 1.3 * sizes[1][1]
    showcase(asked, runs / "stage2", shown(rng, 5, 0), output)  # as many compile nothing
    assert {path.name for path in output.iterdir()} == {"drawings.png"}


def test_nothing_is_drawn_for_a_folder_that_cannot_be_written(
    rng, runs, asked, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "sample_both", None)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        showcase(asked, runs / "stage2", shown(rng, 2, 0), tmp_path)
    for stage, choice in (("stage1", "newest"), ("stage2", "5")):
        asked.stage1_checkpoint = "5" if stage == "stage1" else "newest"
        with pytest.raises(UserError, match=rf"{stage}/checkpoints holds no checkpoint of step 5"):
            showcase(asked, runs / "stage2", shown(rng, 2, 0), tmp_path / "out", choice)
    asked.stage1 = ""
    with pytest.raises(UserError, match=r"config.stage1=''; use configs/stage2.py"):
        showcase(asked, runs / "stage2", shown(rng, 2, 0), tmp_path / "out")
    assert not (tmp_path / "out").exists()
