"""The sample grids of a training run show what the parameters make of held-out sketches."""

import jax
import numpy as np
import pytest
from fakes import mixed, random_batch, random_labels, random_params, tiny_config, tiny_tokenizer
from pictures import contains

from ragaf_jax.batch import Text, Truth
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.responses import make_responses
from ragaf_jax.evaluation.sample_grid import attention_sheet, make_grid
from ragaf_jax.figures.lettering import enlarge
from ragaf_jax.figures.phrases import phrases
from ragaf_jax.nets.build import build_model

DARK = (128, 0, 38)  # of the phrase that has most of a region's attention


def examples(rng, config, count, shape=None):
    """A batch, and the part of its truth that figures show."""
    batch = random_batch(rng, config, count, shape)
    pages = np.full(batch.labels.shape, 255, np.uint8)
    images = ((batch.image + 1) * 127.5).astype(np.uint8)
    captions = ("a house",) * count
    return batch, Truth(images, pages, None, None, captions, None)


def pieces_of(batch, example):
    return tiny_tokenizer().pieces(batch.text.tokens[example].tolist())


def test_the_grid_shows_what_the_parameters_sample(rng):
    config = tiny_config(1)
    config.sample.steps, config.sample_examples = 2, 3
    grid = make_grid(config, tiny_tokenizer(), *examples(rng, config, 5))
    params = random_params(build_model(config), rng)
    first = grid(params)
    assert set(first) == {"samples"}  # without regions there is no attention of theirs
    first = first["samples"]
    assert first.dtype == np.uint8 and first.shape[1] < first.shape[0]
    np.testing.assert_array_equal(grid(params)["samples"], first)
    assert (grid(jax.tree.map(lambda x: x + 0.1, params))["samples"] != first).any()


def test_a_sampler_that_does_not_fit_is_refused_before_training(rng):
    config = tiny_config(1)
    config.sample.update(sampler="ddim", sigmas="karras")
    config.response.sample_steps = 60
    shown = tiny_tokenizer(), *examples(rng, config, 2)
    with pytest.raises(UserError, match="sigmas is 'karras' and the sampler 'ddim' only has 'unif"):
        make_grid(config, *shown)
    config.sample.update(sampler="lcm", sigmas="uniform")
    make_grid(config, *shown)
    with pytest.raises(UserError, match="steps is 60"):
        make_responses(config, *shown)
    config.response.every = 0
    make_responses(config, *shown)


def test_of_stage_2_it_shows_the_attention_of_the_same_parameters(rng):
    config = tiny_config(2)
    config.sample.steps, config.sample_examples = 2, 3
    batch, truth = examples(rng, config, 5)
    grid = make_grid(config, tiny_tokenizer(), batch, truth)
    params = random_params(build_model(config), rng)

    def dark(params):
        figures = grid(params)
        assert set(figures) == {"samples", "attention"}
        return (figures["attention"] == DARK).all(-1).sum()

    # Parameters of 0 attend to every token alike, so that the longest phrases are the strongest.
    lengths = [[len(positions) for _, positions in phrases(pieces_of(batch, i))] for i in range(3)]
    cells = sum(each.count(max(each)) for each in lengths)
    even = dark(jax.tree.map(np.zeros_like, params))
    assert even >= cells * 158**2  # maps of 160 without their frames
    assert dark(params) < 0.8 * even


@pytest.mark.parametrize("side", [16, 256])
def test_the_attention_sheet_paints_regions_under_the_phrases_they_attend_to(rng, side):
    config = tiny_config(2)
    batch, truth = examples(rng, config, 4)
    # All in blocks and of one shade, so that resampling changes nothing.
    labels = np.stack([random_labels(rng, 16, int(n)) for n in batch.graph.n_node[:, 0]])
    sketches = np.ones((1, 16, 16), np.uint8) * rng.integers(50, 200, (4, 1, 1), np.uint8)
    blocks = np.ones((1, side // 16, side // 16), np.uint8)
    truth = truth._replace(sketch_u8=np.kron(sketches, blocks))
    batch = batch._replace(labels=np.kron(labels, blocks).astype(np.int32))
    attention = np.zeros((3, config.data.max_regions, config.data.text_length), np.float32)
    expected = []
    for i in range(3):  # the fourth is not shown
        shown = phrases(pieces_of(batch, i))
        attended = rng.integers(len(shown), size=config.data.max_regions)
        for region, phrase in enumerate(attended):
            positions = shown[phrase][1]
            attention[i, region, positions] = 1 / len(positions)
        for phrase in range(len(shown)):
            color = np.where((attended[labels[i]] == phrase)[..., None], DARK, 255)
            small = np.rint(color * (sketches[i, ..., None] / 255)).astype(np.uint8)
            expected.append(small.repeat(10, 0).repeat(10, 1))
    sheet = attention_sheet(tiny_tokenizer(), batch, truth, attention)
    assert all(contains(sheet, image) for image in expected)
    assert sheet.shape[1] < 1100


def test_drawings_without_words_have_no_maps_and_are_named(rng):
    config = tiny_config(2)
    batch, truth = examples(rng, config, 2)
    text = Text(*tiny_tokenizer().encode(["", ""], config.data.text_length))
    batch = batch._replace(text=text)
    attention = np.ones((2, config.data.max_regions, config.data.text_length), np.float32)
    sheet = attention_sheet(tiny_tokenizer(), batch, truth._replace(captions=("", " ")), attention)
    assert sheet.shape[0] < 128 and sheet.min() < 100


@pytest.mark.products
def test_drawings_of_several_sizes_are_on_one_page(rng):
    config = tiny_config(2)
    config.sample.steps, config.sample_examples = 2, 4
    shapes = (16, 16), (8, 24), (24, 8)
    batches, truths = zip(*(examples(rng, config, 2, shape) for shape in shapes), strict=True)
    images = mixed(*(truth.image_u8 for truth in truths))
    pages = mixed(*(truth.sketch_u8 for truth in truths))
    truth = Truth(images, pages, None, None, ("a house",) * 6, None)
    grid = make_grid(config, tiny_tokenizer(), mixed(*batches), truth)
    figures = grid(random_params(build_model(config), rng))
    for i, image in enumerate(images):
        assert contains(figures["samples"], enlarge(image, 192)) == (i < 4)
    assert figures["attention"].shape[0] > 4 * 150
