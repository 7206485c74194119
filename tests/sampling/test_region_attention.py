"""Region prompts without training: cross-attention that is restricted by region, in whole calls."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import run_here
from fakes import SMALLEST, random_stage, save_stage
from pages import random_page
from PIL import Image

from ragaf_jax.errors import UserError
from ragaf_jax.nets.regions import region_shares
from ragaf_jax.sampling.conditions import OWN_TEXT_SHARE
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA

pytestmark = pytest.mark.slow

PROMPT = "a red house"
LONG = "a red house " * 4  # two windows


@pytest.fixture(scope="module")
def pipeline():
    """Cross-attention in the mid block alone."""
    return Pipeline(random_stage(1, **SMALLEST))


def close(one, other):
    """Up to rounding of a grey level."""
    return np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_the_prompt_as_the_prompt_of_every_region_is_the_prompt_alone(rng, pipeline):
    page = pipeline.page(random_page(rng))
    for prompt in (PROMPT, LONG):
        same = pipeline(page, prompt, dict.fromkeys(page.numbered.numbers, prompt))
        assert close(same.images, pipeline(page, prompt).images)


def test_no_weight_and_no_steps_are_no_region_prompts(rng, pipeline):
    page = pipeline.page(random_page(rng))
    prompts = dict.fromkeys(page.numbered.numbers, "small blue")
    plain, regional = (pipeline(page, PROMPT, texts).images for texts in ({}, prompts))
    assert not close(regional, plain)
    for setting in ({"region_base_ratio": 1.0}, {"region_end": 0.0}):
        assert close(pipeline(page, PROMPT, prompts, **setting).images, plain), setting


def test_a_region_attends_to_its_own_text_alone(rng, pipeline):
    """With all cells in one region: as if the region's text were the prompt."""
    page = pipeline.page(np.full((256, 256), 255, np.uint8))
    assert page.numbered.regions.n == 1
    texts = {"negative_prompt": "green", "region_base_ratio": 0.0}
    found = pipeline(page, "large house", {0: PROMPT}, region_negative_prompts={0: "blue"}, **texts)
    expected = pipeline(page, PROMPT, negative_prompt="blue")
    assert close(found.images, expected.images)
    # One of both alone leaves the other to the main texts.
    found = pipeline(page, PROMPT, region_negative_prompts={0: "blue"}, **texts)
    assert close(found.images, expected.images)


def test_cells_of_other_regions_are_as_without_region_prompts(rng, pipeline):
    """To the bit: the autoencoder of this model is local."""
    page = pipeline.page(random_page(rng))
    number = page.numbered.numbers[1]
    plain = pipeline(page, PROMPT).images[0]
    found = pipeline(page, PROMPT, {number: "large blue"}).images[0]
    model = pipeline.leading.model
    grid = model.latent_shape_of(page.size)[:2]
    shares = region_shares(jnp.asarray(page.numbered.regions.labels[None]), model.max_regions, grid)
    own = np.asarray(shares)[0, ..., page.numbered.id_of(number)] >= OWN_TEXT_SHARE
    own = np.kron(own, np.ones((page.size[0] // grid[0],) * 2, bool))
    assert own.any() and not own.all()
    np.testing.assert_array_equal(found[~own], plain[~own])
    assert (found[own] != plain[own]).any()


def test_new_texts_regions_and_weights_compile_nothing(rng, pipeline, caplog):
    pages = [pipeline.page(random_page(rng)) for _ in range(2)]
    numbers = pages[0].numbered.numbers
    first = pipeline(pages[0], PROMPT, {numbers[0]: "blue"})
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        others = [
            pipeline(pages[0], PROMPT, {numbers[1]: "red", numbers[0]: "small"}),
            pipeline(
                pages[0],
                "large",
                {numbers[0]: "blue", numbers[2]: "green"},
                region_negative_prompts={numbers[0]: "small"},
                region_base_ratio=0.7,
                region_end=0.4,
            ),
            pipeline(pages[1], PROMPT, {0: "red", 1: "blue"}),
        ]
        assert [line for line in caplog.messages if "ompil" in line] == []
    assert all((other.images != first.images).any() for other in others)


def test_a_trained_ragaf_is_used_unless_attention_is_chosen(rng, small_pipeline):
    page = small_pipeline.page(random_page(rng))
    prompts = {page.numbered.numbers[0]: "large blue"}

    def sampled(**options):
        return small_pipeline(page, PROMPT, prompts, **options)

    ragaf, attention = sampled(), sampled(region_method="attention")
    np.testing.assert_array_equal(ragaf.images, sampled(region_method="ragaf").images)
    np.testing.assert_array_equal(ragaf.coarse, small_pipeline(page, PROMPT).coarse)
    assert (attention.coarse != ragaf.coarse).any() and (attention.images != ragaf.images).any()
    assert ragaf.attention is not None and attention.attention is None
    # Stage 1 has no RAGAF.
    np.testing.assert_array_equal(attention.coarse, sampled(stages="1").images)
    with pytest.raises(UserError, match="no Stage 2 with RAGAF is used .stages='1'.; choose"):
        sampled(stages="1", region_method="ragaf")


def test_texts_for_attention_alone_do_not_limit_ragaf(rng, small_pipeline):
    """Three regions' texts of 21 windows fit into RAGAF's row, not into four of equal length."""
    page, prompts = random_page(rng), dict.fromkeys(range(3), "red " * 210)
    ragaf = small_pipeline.request(small_pipeline.page(page), PROMPT, prompts)
    windows = ragaf.regional(by_ragaf=True).positive.tokens.size // 12
    assert windows == 64
    with pytest.raises(UserError, match="The prompts take 84 windows"):
        ragaf.regional(by_ragaf=False)


def test_settings_without_region_prompts_are_not_recorded(rng, pipeline):
    page, changed = pipeline.page(random_page(rng)), {"region_end": 0.8}
    plain, with_text = (pipeline(page, PROMPT, texts, **changed) for texts in ({}, {0: "red"}))
    assert not {x for x in plain.settings if x.startswith("region_")}
    assert with_text.settings["region_end"] == 0.8


def test_negative_prompts_without_guidance_are_noticed(rng, pipeline):
    negatives = {"region_negative_prompts": {0: "red"}}
    notices = pipeline(random_page(rng), PROMPT, guidance=1.0, **negatives).notices
    assert "guidance is 1, so the negative prompts of regions have no effect." in notices


def test_requests_with_and_without_regions_are_sampled_as_alone(rng, pipeline):
    page = pipeline.page(random_page(rng))
    texts = [{}, {0: "blue"}, {0: "red", 1: "large green"}, {1: "small"}]
    requests = [pipeline.request(page, PROMPT, prompts) for prompts in texts]
    together = pipeline.run(requests, [1, 2, 3, 4], pipeline.options())
    for i, prompts in enumerate(texts):
        alone = pipeline(page, PROMPT, prompts, seed=i + 1)
        np.testing.assert_array_equal(together[i].images, alone.images)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"region_method": "mask"},
            "region_method is 'mask'; choose one of auto, ragaf, attention",
        ),
        ({"region_base_ratio": 1.5}, "region_base_ratio is 1.5; choose 0 to 1"),
        ({"region_end": "all"}, "region_end is 'all'; choose a number"),
        ({"region_negative_prompts": {0: " "}}, "The negative prompt of region 0 is empty; descr"),
        ({"region_negative_prompts": {99: "red"}}, "There is no region 99; the sketch has"),
        (
            {"region_prompts": dict.fromkeys(range(3), "red " * 210)},
            "The prompts take 84 windows of 12 tokens and at most 64 are possible; shorten them",
        ),
    ],
)
def test_wrong_settings_end_in_one_sentence(rng, pipeline, options, message):
    with pytest.raises(UserError, match=message):
        pipeline(random_page(rng), PROMPT, **options)


def test_the_command_records_and_repeats_them(rng, pipeline, tmp_path, monkeypatch):
    workdir = save_stage(pipeline.leading, tmp_path / "stage1")
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    sketch, out, again = (tmp_path / name for name in ("house.png", "out", "again"))
    Image.fromarray(random_page(rng)).save(sketch)
    flags = [f"--stage1={workdir}", f"--sketch={sketch}", "--region=0=blue", "--region=1=red"]
    flags += ["--negative_region=1=small", "--region_base_ratio=0.1", "--prompt=a house"]
    done = run_here("ragaf_jax.sample", *flags, f"--output={out}")
    assert done.status == 0, done.stderr
    metadata = json.loads((out / METADATA).read_text())
    assert metadata["region_prompts"] == {"0": "blue", "1": "red"}
    assert metadata["region_negative_prompts"] == {"1": "small"}
    assert metadata["region_base_ratio"] == 0.1 and metadata["region_method"] == "auto"
    assert (out / "prompt.txt").read_text().splitlines()[-1] == "1, negative: small"
    done = run_here("ragaf_jax.sample", f"--from={out}", f"--output={again}")
    assert done.status == 0, done.stderr
    image = "stage1_output.png"
    assert (again / image).read_bytes() == (out / image).read_bytes()

    row = {"sketch": "house.png", "prompt": "a house", "regions": {"0": "blue", "1": "red"}}
    row["negative_regions"] = "1=small"
    table, batch = tmp_path / "prompts.jsonl", tmp_path / "batch"
    table.write_text(json.dumps(row))
    flags = [f"--stage1={workdir}", f"--sketches={tmp_path}", f"--prompts={table}"]
    for sampled, existing in ((1, 0), (0, 1)):
        more = ["--region_base_ratio=0.1", f"--output={batch}"]
        done = run_here("ragaf_jax.sample", *flags, *more)
        assert f"{sampled} sampled, {existing} existed before" in done.stdout, done.stderr
    assert (batch / "house" / image).read_bytes() == (out / image).read_bytes()
