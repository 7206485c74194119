"""Records match their configuration, or are refused."""

import pytest
from fakes import tiny_tokenizer
from miniature import LIMIT, RECOLORINGS

from configs import stage1
from input_pipeline import configured
from input_pipeline.configured import held_out, held_out_for, open_split, shown_for
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from ragaf_jax.errors import UserError


@pytest.fixture
def config(data_dir):
    config = stage1.get_config()
    config.data.dir, config.data.recolorings = str(data_dir), RECOLORINGS
    return config


@pytest.mark.parametrize("budget", ["max_regions", "max_edges"])
def test_budgets_that_the_data_may_exceed_are_refused_at_the_start(config, budget):
    config.data[budget] = 32
    with pytest.raises(UserError, match=rf"{budget}( is)? 32.*set both to 33 or more"):
        open_split(config.data, "train")


@pytest.mark.parametrize("kind", ["ink", pytest.param("page", marks=pytest.mark.products)])
def test_other_regions_are_prepared_and_never_taken_for_each_other(config, tmp_path, kind):
    config.data.update(dir=str(tmp_path), dataset="openmoji/plain", regions=kind)
    with pytest.raises(UserError, match=f"run: .* --regions={kind}$"):
        open_split(config.data, "train")
    config.data.regions = "strokes"
    prepare("openmoji/plain", tmp_path, Options(config.data.image_size, limit=3, regions=kind))
    with pytest.raises(UserError, match=f"--regions={kind} and config.data.regions is 'strokes'"):
        open_split(config.data, "train")
    config.data.regions = kind
    source = open_split(config.data, "train")
    for record in (source[i] for i in range(len(source))):
        assert len(record["nodes"]) == record["labels"].max() + 1
        if kind == "page":
            assert not record["labels"].any()
        else:  # the paper is one region, whatever lines enclose, and ink another
            ink = record["sketch"][..., 0] == 0
            assert record["labels"][ink].all() and not record["labels"][~ink].all()
    with pytest.raises(UserError, match="was prepared with other regions than --regions=strokes"):
        prepare("openmoji/plain", tmp_path, Options(config.data.image_size, limit=3))


def test_held_out_drawings_differ(config, monkeypatch):
    batch, truth = held_out(config.data, "validation", 3)
    assert len(batch.image) == len(truth.keys) == 3
    assert len({key.split("/")[0] for key in truth.keys}) == 3
    batch, _ = held_out(config.data, "validation", 1000)
    assert len(batch.image) == LIMIT
    said = "has 1 validation images and at least two are needed"
    with pytest.raises(UserError, match=f"{said}; prepare it without --limit"):
        held_out(config.data, "validation", 1)
    source = open_split(config.data, "validation")
    source.metadata["limit"] = 0  # the advice must be of use
    monkeypatch.setattr(configured, "open_split", lambda *_: source)
    with pytest.raises(UserError, match=f"{said}; add some"):
        held_out(config.data, "validation", 1)


def test_a_checkpoint_is_tested_on_its_own_vocabulary_and_shapes(config):
    trained = stage1.get_config()
    trained.data.recolorings, trained.data.text_length = RECOLORINGS, 20
    tokenizer = open_split(config.data, "test").tokenizer
    batch, _ = held_out_for(config, trained, tokenizer)
    assert batch.text.tokens.shape == (LIMIT, 20)
    with pytest.raises(
        UserError, match="The vocabulary of the data in .* is not that of the checkpoint"
    ):
        held_out_for(config, trained, tiny_tokenizer())


def test_drawings_to_look_at_and_one_of_them_in_several_colours(config):
    trained, tokenizer = stage1.get_config(), tiny_tokenizer()
    trained.data.recolorings, trained.data.text_length = RECOLORINGS, 20
    batch, truth, drawings = shown_for(config, trained, tokenizer, 3, 8)
    assert drawings == 3 and batch.text.tokens.shape == (3 + RECOLORINGS, 20)
    names = [key.rsplit("/", 1)[0] for key in truth.keys]
    assert len(set(names[:3])) == 3 and len(set(names[3:])) == 1 and names[3] in names[:3]
    assert len(set(truth.keys[3:])) == len(set(truth.captions[3:])) == RECOLORINGS
    assert all((truth.sketch_u8[i] == truth.sketch_u8[3]).all() for i in (3, 4))
    asked = [len({c for c in colors if c >= 0}) for colors in truth.true_colors.tolist()]
    assert min(abs(n - 3) for n in asked[:3]) == abs(asked[names.index(names[3])] - 3)
    # The checkpoint's own words are those that are read, whatever words the data have.
    assert batch.text.tokens.max() < tokenizer.vocab_size
    trained.data.dataset = "openmoji/plain"
    _, truth, drawings = shown_for(config, trained, tokenizer, 3, 8)
    assert drawings == 3 and len(truth.keys) == 3
