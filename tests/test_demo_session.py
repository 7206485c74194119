"""What the page does, without a browser."""

import cv2
import numpy as np
import pytest
from fakes import random_stage

from ragaf_jax.demo.session import Session, begun, draw, flattened
from ragaf_jax.errors import UserError
from ragaf_jax.lettering import enlarge
from ragaf_jax.sampling.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(random_stage(1), random_stage(2))


def strokes(side=512):
    """What a canvas holds: black strokes, the rest transparent."""
    ink = np.zeros((side, side), np.uint8)
    cv2.rectangle(ink, (100, 100), (250, 400), 255, 10)
    cv2.circle(ink, (380, 250), 80, 255, 10)
    return np.dstack([np.zeros((side, side, 3), np.uint8), ink])


def test_a_drawn_sketch_has_regions_that_can_be_clicked(pipeline):
    session = begun(pipeline, flattened(strokes()))
    assert session.drawing.numbered.regions.n == 3
    assert session.figure.shape[0] >= 512 and session.words == {}
    inside, ball = session.choose(0.34, 0.5), session.choose(0.74, 0.49)
    outside = session.choose(0.999, 1.0)
    assert len({inside.chosen, ball.chosen, outside.chosen}) == 3
    numbered = session.drawing.numbered
    assert numbered.regions.background[numbered.id_of(outside.chosen)]
    spoken = inside.speak(" a red wall ").choose(0.74, 0.49).speak("blue")
    assert spoken.words == {inside.chosen: "a red wall", ball.chosen: "blue"}
    assert f"**{ball.chosen}**: blue" in spoken.spoken
    assert spoken.speak(" ").words == {inside.chosen: "a red wall"}


def test_without_a_sketch_there_is_nothing_to_choose(pipeline):
    blank = np.zeros((64, 64, 4), np.uint8)
    for grey in (None, flattened(blank)):
        session = begun(pipeline, grey)
        assert session == Session() and session.figure is None
        assert session.choose(0.5, 0.5).chosen is None
        with pytest.raises(UserError, match="No region is chosen"):
            session.speak("red")
        with pytest.raises(UserError, match="There is no sketch yet"):
            next(draw(pipeline, session, "a house", "", 0))


def test_transparent_is_white_and_half_of_it_half():
    layers = np.zeros((1, 3, 4), np.uint8)
    layers[0, 1] = 0, 0, 0, 255
    layers[0, 2] = 255, 255, 255, 128
    assert flattened(layers).tolist() == [[255, 0, 255]]


def test_what_is_shown_is_what_the_pipeline_draws(rng, pipeline):
    session = begun(pipeline, flattened(strokes())).choose(0.34, 0.5).speak("red")
    seed = int(rng.integers(2**32))
    *shown, last = draw(pipeline, session, "a house", "green", seed, steps=3)
    assert [x.status for x in shown[1:]] == [
        *(f"Stage 1, step {i} of 3" for i in (1, 2, 3)),
        *(f"Stage 2, step {i} of 3" for i in (1, 2, 3)),
    ]
    assert shown[2].stage1 is not None and shown[2].stage2 is None
    expected = pipeline(
        session.drawing,
        "a house",
        session.words,
        negative_prompt="green",
        seed=seed,
        steps=3,
    )
    np.testing.assert_array_equal(last.stage1, enlarge(expected.coarse[0], 256))
    np.testing.assert_array_equal(last.stage2, enlarge(expected.images[0], 256))
    assert last.attention is not None and last.status.startswith("Done.")
    silent = session._replace(words={})
    *_, alone = draw(pipeline, silent, "a house", "green", seed, steps=3, stages="1")
    np.testing.assert_array_equal(alone.stage1, last.stage1)
    assert alone.stage2 is None and alone.attention is None
    with pytest.raises(UserError, match="steps is 0"):
        next(draw(pipeline, session, "a house", "", 0, steps=0))
