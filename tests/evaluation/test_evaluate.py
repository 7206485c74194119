"""Evaluation as a whole, on two tiny stages and made-up drawings."""

import functools
import json

import numpy as np
import pytest
from fakes import SMALLEST, mixed, random_stage, save_stage, smallest_config, tiny_tokenizer
from PIL import Image
from quarters import quarters
from shared_programs import shared

from input_pipeline.extraction.sketch import canny
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation import evaluate as evaluate_module
from ragaf_jax.evaluation import sampled
from ragaf_jax.evaluation.evaluate import evaluate
from ragaf_jax.evaluation.networks import chunks
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.statistics import comparison, fusion_balance, summary
from ragaf_jax.losses import validation as monitor
from ragaf_jax.monitoring.writers import JsonLines
from ragaf_jax.sampling import loaded_stages

WRITTEN = {
    "contact_sheet.png",
    "curves.png",
    "metrics.json",
    "report.html",
    "report.md",
    "sampled",
}
OF_WEIGHTS = {name for name, metric in METRICS.items() if metric.weights}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """All tests share the compiled functions, whatever the number of drawings."""
    few = {"resamples": 200}
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (loaded_stages, "make_stage_sampler"),
            (evaluate_module, "make_trace"),
            (evaluate_module, "make_validate"),
        ):
            patch.setattr(module, name, shared(getattr(module, name)))
        for module, size in ((sampled, 1), (chunks, 2), (monitor, 2)):
            patch.setattr(module, "CHUNK", size)
        interval, difference = summary.bootstrap_interval, comparison.paired_difference
        for module in (summary, fusion_balance):
            patch.setattr(module, "bootstrap_interval", functools.partial(interval, **few))
        patch.setattr(comparison, "paired_difference", functools.partial(difference, **few))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Stages as training leaves them: checkpoints and logs. "plain" is a Stage 2 without RAGAF."""
    folder = tmp_path_factory.mktemp("runs")
    stages = {
        "stage1": random_stage(1, **SMALLEST),
        "stage2": random_stage(2, **SMALLEST),
        "other": random_stage(2, 1, **SMALLEST),
        "plain": random_stage(2, **SMALLEST, **{"model.ragaf.inject": ()}),
    }
    for name, stage in stages.items():
        workdir = save_stage(stage, folder / name)
        writer = JsonLines(workdir / "logs" / "metrics.jsonl")
        writer.scalars(1, {"loss": 0.5})
        writer.close()
    return folder


@pytest.fixture
def asked(trained):
    config = smallest_config(2)
    config.stage1, config.sample.steps = str(trained / "stage1"), 2
    return config


def drawings(rng, config, count, shape=(16, 16)):
    """Quarters with a line between, three of them asked a colour."""
    batch, truth = quarters(rng, config, count, shape)
    sketch = truth.sketch_u8.copy()
    row, column = (side // 2 for side in shape)
    sketch[:, row - 1 : row + 1] = sketch[:, :, column - 1 : column + 1] = 0
    images = ((batch.image + 1) * 127.5).astype(np.uint8)
    keys = tuple(f"key{i}" for i in range(count))
    found = np.full(count, 40, np.int32)
    return batch, truth._replace(image_u8=images, sketch_u8=sketch, keys=keys, regions_found=found)


def opened(batch, truth):
    return lambda config, tokenizer: (batch, truth)


def numbers(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 9])
def test_both_stages_are_measured_and_shown(
    rng, trained, asked, tmp_path, capsys, monkeypatch, count
):
    wanted, traces, scored = [], [], []
    trace_of, score = evaluate_module.trace_of, evaluate_module.attention_scores

    def spied_trace(*args):
        traces.append(trace_of(*args))
        return traces[-1]

    def spied_scores(attention, *args):
        scored.append(attention)
        return score(attention, *args)

    monkeypatch.setattr(evaluate_module, "trace_of", spied_trace)
    monkeypatch.setattr(evaluate_module, "attention_scores", spied_scores)

    def open_held_out(found, tokenizer):
        wanted.append((found.data.text_length, tokenizer.to_json()))
        return drawings(rng, found, count)

    output = tmp_path / "out"
    returned = evaluate(asked, trained / "stage2", open_held_out, output, canny)
    assert wanted == [(12, tiny_tokenizer().to_json())]
    # At the noisiest timestep, where the picture does not show its colours yet.
    np.testing.assert_array_equal(scored[0], traces[0].attention[0])
    assert np.any(scored[0] != traces[0].attention[-1])
    assert {path.name for path in output.iterdir()} == WRITTEN
    found = numbers(output)
    assert found == json.loads(json.dumps(returned))
    assert found["drawings"] == count and found["sample"]["steps"] == 2
    measured = {name for name in METRICS if not name.startswith("graph_")}
    measured -= OF_WEIGHTS | {"ms_ssim"}
    attention = {name for name in measured if name.startswith("attention_")}
    # Where no picture of random parameters has a line, there is no distance, and that is said.
    assert set(found["metrics"]["stage 2"]) | {"line_distance"} == measured
    assert set(found["metrics"]["stage 1"]) | {"line_distance"} == measured - attention
    assert (
        OF_WEIGHTS | {"ms_ssim"}
        <= set(found["missing"])
        <= {*OF_WEIGHTS, "ms_ssim", "line_distance"}
    )
    for stage in ("stage 1", "stage 2"):
        for name, estimate in found["metrics"][stage].items():
            assert estimate["low"] <= estimate["value"] <= estimate["high"], name
            values = found["values"][stage][name]["value"]
            assert estimate["examples"] + estimate["left_out"] == len(values)
        assert found["metrics"][stage]["color_accuracy"]["examples"] == 3 * count
    assert found["metrics"]["stage 2"]["attention_pointing"]["chance"] == pytest.approx(1 / 3)
    assert set(found["differences"]) | {"line_distance"} == measured - attention
    assert found["graphs"]["graph_merged"]["value"] == 8
    assert set(found["validation"]["stage 2"]) - set(found["validation"]["stage 1"]) == {
        "shuffled_graph"
    }
    assert len(found["fusion"]["all"]["alpha"]) == len(found["fusion"]["levels"])

    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"Report: {output / 'report.html'}"
    assert sum("edge F1" in line and "colour accuracy" in line for line in said) == 2
    (unweighted,) = (line for line in said if line.startswith("Not computed"))
    for name, sentence in found["missing"].items():
        assert said.count(sentence) == (name not in OF_WEIGHTS)
        assert METRICS[name].title.partition(",")[0] in unweighted or name not in OF_WEIGHTS
        assert sentence in (output / "report.md").read_text()
    page = (output / "report.html").read_text()
    for title in (
        "Colours requested and obtained, stage 1",
        "Balance of sketch and text",
        "Losses",
    ):
        assert f"<h2>{title}</h2>" in page
    # As wide for two drawings as for nine, of which eight are shown.
    width, height = Image.open(output / "contact_sheet.png").size
    assert width > 900 and (height < 600) == (count == 2)


@pytest.mark.products
def test_drawings_of_several_sizes_are_measured_together(rng, trained, asked, tmp_path):
    shapes = {(16, 16): 3, (32, 24): 2, (24, 32): 2}
    groups = [drawings(rng, asked, count, shape) for shape, count in shapes.items()]
    batch = mixed(*(batch for batch, _ in groups))
    fields = ("image_u8", "sketch_u8", "true_labels", "true_colors", "true_phrases")
    images = {name: mixed(*(getattr(truth, name) for _, truth in groups)) for name in fields}
    keys = tuple(f"key{i}" for i in range(7))
    captions = np.concatenate([truth.captions for _, truth in groups])
    order = mixed(*(np.split(np.arange(7), [3, 5])))
    truth = groups[0][1]._replace(
        **images,
        captions=tuple(str(captions[i]) for i in order),
        keys=keys,
        regions_found=np.full(7, 40, np.int32),
    )
    output = tmp_path / "out"
    found = evaluate(asked, trained / "stage2", opened(batch, truth), output, canny)
    assert found["sizes"] == {"16x16": 3, "24x32": 2, "32x24": 2}
    text = (output / "report.md").read_text()
    assert "at 16x16 (3), 24x32 (2), 32x24 (2) px" in text
    for name in ("ssim", "psnr", "edge_f1", "region_iou", "edge_map_ssim"):
        assert found["metrics"]["stage 2"][name]["examples"] == 7
    assert found["metrics"]["stage 2"]["color_accuracy"]["examples"] == 21
    assert np.isfinite(found["validation"]["stage 2"]["shuffled_graph"]["mean"])
    # The numbers of the squares are those of an evaluation of the squares alone.
    alone = evaluate(asked, trained / "stage2", opened(*groups[0]), tmp_path / "alone", canny)
    for stage in ("stage 1", "stage 2"):
        together, squares = (x["values"][stage]["psnr"]["value"] for x in (found, alone))
        np.testing.assert_allclose([together[i] for i in (0, 3, 6)], squares, rtol=1e-6)


def test_what_was_interrupted_ends_with_the_same_numbers(
    rng, trained, asked, tmp_path, monkeypatch
):
    asked_for = trained / "stage2", opened(*drawings(rng, asked, 2))
    whole = evaluate(asked, *asked_for, tmp_path / "whole", canny)
    write, done = sampled._write, []

    def killed(*args):
        write(*args)
        done.append(args[0].name)
        if len(done) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(sampled, "_write", killed)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked, *asked_for, output, canny)
    assert {path.name for path in output.iterdir()} == {"sampled"}  # no report by halves
    assert evaluate(asked, *asked_for, output, canny) == whole
    assert done == ["00000.npz", "00001.npz"]
    assert {path.name for path in output.iterdir()} == WRITTEN

    asked.seed += 1  # an evaluation of another seed has pictures of its own
    other = evaluate(asked, *asked_for, output, canny)
    assert done == ["00000.npz", "00001.npz"] * 2
    assert other["values"] != whole["values"] and numbers(output)["seed"] == asked.seed


def test_runs_are_compared_on_the_same_drawings(rng, trained, asked, tmp_path):
    batch, truth = drawings(rng, asked, 2)
    first, second = tmp_path / "first", tmp_path / "second"
    theirs = evaluate(asked, trained / "stage2", opened(batch, truth), first, canny)
    ours = evaluate(asked, trained / "other", opened(batch, truth), second, canny, [first])
    found = ours["comparisons"][str(first)]
    assert found["metrics"] == theirs["metrics"]
    assert all(x["difference"] == 0 for x in found["differences"]["stage 1"].values())
    difference = found["differences"]["stage 2"]["ssim"]
    pair = [run["metrics"]["stage 2"]["ssim"]["value"] for run in (ours, theirs)]
    assert difference["difference"] == pytest.approx(pair[0] - pair[1]) != 0
    assert 0 < difference["p_value"] <= 1
    assert f"this − {first}" in (second / "report.md").read_text()

    refused = tmp_path / "refused"
    fewer = truth._replace(keys=("key0", "other"))
    with pytest.raises(UserError, match="2 are in only one of them"):
        evaluate(asked, trained / "other", opened(batch, fewer), refused, canny, [first])
    asked.seed = 5
    with pytest.raises(UserError, match="config.seed=0 and this one 5"):
        evaluate(asked, trained / "other", opened(batch, truth), refused, canny, [first])
    assert not refused.exists()


@pytest.mark.products
def test_a_stage_2_without_ragaf_on_photographs(rng, trained, asked, tmp_path):
    """Neither attention nor fusion, and nothing of parts."""
    batch, truth = drawings(rng, asked, 2)
    photos = truth._replace(
        true_labels=np.zeros_like(truth.true_labels),
        true_colors=truth.true_colors[:, :0],
        true_phrases=truth.true_phrases[:, :0],
        regions_found=None,
    )
    output = tmp_path / "out"
    found = evaluate(asked, trained / "plain", opened(batch, photos), output, canny)
    assert found["fusion"] is None
    assert not any(METRICS[name].needs != "images" for name in found["metrics"]["stage 2"])
    assert "edge_map_ssim" in found["metrics"]["stage 2"]
    assert "graph_merged" not in found["graphs"]
    page = (output / "report.html").read_text()
    assert "No parts with known colours" in page and "Held-out examples" in page
    for title in ("Colours requested", "Balance of sketch", "Attention of regions"):
        assert title not in page


def test_it_wants_a_stage_2_and_its_stage_1(rng, trained, tmp_path):
    config = smallest_config(1)
    with pytest.raises(UserError, match="Evaluation needs both stages and has Stage 1"):
        evaluate(
            config,
            trained / "stage1",
            opened(*drawings(rng, config, 2)),
            tmp_path / "out",
            canny,
        )
    assert not (tmp_path / "out").exists()
