"""Functions of the page, without a browser."""

import re
import zipfile

import cv2
import numpy as np
import pytest
from fakes import random_stage
from skimage.data import astronaut

from ragaf_jax.demo.canvas import (
    canvas_size,
    flattened,
    on_canvas,
    read_canvas,
    read_upload,
    resized_session,
    upload_sketch,
)
from ragaf_jax.demo.generation import SHOWN, generate, write_archive
from ragaf_jax.demo.number_fields import NECK_SPLITS_FIELD, checked_settings
from ragaf_jax.demo.session import HIGHLIGHT, Session, match_regions
from ragaf_jax.demo.sliders import control_sliders, lora_sliders, with_networks
from ragaf_jax.errors import UserError
from ragaf_jax.figures.lettering import enlarge
from ragaf_jax.graph.prepare import page_scale
from ragaf_jax.graph.regions import Regions
from ragaf_jax.sampling.controls.networks import Control, WeightFiles
from ragaf_jax.sampling.controls.settings import ControlSettings
from ragaf_jax.sampling.lora.settings import Lora
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.pipeline import Pipeline

WALL, BALL, OUTSIDE = (0.34, 0.5), (0.74, 0.49), (0.999, 1.0)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(random_stage(1), random_stage(2))


def strokes(side=512):
    """Layers of a canvas: black strokes, the rest transparent."""
    ink = np.zeros((side, side), np.uint8)
    cv2.rectangle(ink, (100, 100), (250, 400), 255, 10)
    cv2.circle(ink, (380, 250), 80, 255, 10)
    return np.dstack([np.zeros((side, side, 3), np.uint8), ink])


@pytest.fixture(scope="module")
def drawn(pipeline):
    """A wall and a ball."""
    return read_canvas(pipeline, Session(), strokes())


def numbered(labels, background=()):
    """Regions of a label map under numbers from 10 on."""
    count = int(np.max(labels)) + 1
    flags = np.isin(np.arange(count), background)
    regions = Regions(np.array(labels, np.int32), count, flags)
    return NumberedRegions(regions, tuple(range(10, 10 + count)))


def test_a_drawn_sketch_has_regions_that_can_be_clicked(drawn):
    assert drawn.page.numbered.regions.n == 3
    assert drawn.figure.shape[0] >= 512 and drawn.prompts == {}
    wall, ball, outside = (drawn.click(*place) for place in (WALL, BALL, OUTSIDE))
    assert len({wall.chosen, ball.chosen, outside.chosen}) == 3
    regions = drawn.page.numbered
    assert regions.regions.background[regions.id_of(outside.chosen)]
    applied = wall.apply(" a red wall ").click(*BALL).apply("blue")
    assert applied.prompts == {wall.chosen: "a red wall", ball.chosen: "blue"}
    assert applied.prompt == "blue" and applied.click(*OUTSIDE).prompt == ""
    assert applied.apply(" ").prompts == {wall.chosen: "a red wall"}
    negative = applied.apply("blue", " dots ").click(*WALL).apply("", "doors")
    assert negative.prompts == {ball.chosen: "blue"}
    assert negative.negatives == {ball.chosen: "dots", wall.chosen: "doors"}
    assert negative.negative == "doors" and negative.click(*OUTSIDE).negative == ""
    assert negative.apply("red").negatives == {ball.chosen: "dots"}


def test_the_chosen_region_is_highlighted_and_no_other(drawn):
    chosen = drawn.click(*BALL)
    changed = (chosen.figure != drawn.figure).any(-1)
    assert (chosen.figure[changed] == HIGHLIGHT).all()
    factor = len(changed) // len(drawn.page.sketch)
    labels = drawn.page.numbered.regions.labels.repeat(factor, 0).repeat(factor, 1)
    inside = labels == drawn.page.numbered.id_of(chosen.chosen)
    assert changed.any() and not changed[~inside].any() and changed[inside].mean() < 0.5


def test_merged_regions_are_one_until_they_are_unmerged(drawn):
    wall = drawn.click(*BALL).apply("", "dots").click(*WALL).apply("red")
    ball = drawn.click(*BALL).chosen
    merged = wall.begin_merge().click(*BALL)
    assert merged.page.numbered.regions.n == 2 and not merged.merging
    assert merged.chosen == min(wall.chosen, ball)
    assert merged.prompts == {merged.chosen: "red"}
    assert merged.negatives == {merged.chosen: "dots"}
    assert merged.click(*BALL).chosen == merged.click(*WALL).chosen == merged.chosen
    everything = merged.begin_merge().click(*OUTSIDE)
    assert everything.page.numbered.regions.n == 1
    apart = merged.unmerge()
    assert apart.page.numbered.numbers == drawn.page.numbered.numbers
    assert wall.begin_merge().begin_merge().click(*BALL).merges == ()
    assert wall.begin_merge().click(*WALL).merges == ()
    with pytest.raises(UserError, match=f"Region {ball} is not merged"):
        drawn.click(*BALL).unmerge()


def test_a_new_stroke_keeps_prompts_and_merges_of_regions_that_still_exist(pipeline, drawn):
    wall = drawn.click(*WALL).apply("red", "doors").click(*OUTSIDE).apply("sky")
    wall = wall.click(*BALL).apply("blue")
    more = strokes()
    cv2.rectangle(more, (160, 300), (200, 400), (0, 0, 0, 255), 8)  # a door in the wall
    cv2.rectangle(more, (20, 430), (490, 500), (0, 0, 0, 255), 8)  # larger than the ball
    after = read_canvas(pipeline, wall, more)
    assert after.page.numbered.regions.n == 5 and after.notice == ""
    assert after.click(*BALL).chosen != wall.chosen  # numbers go by area
    prompts = [after.click(*place).prompt for place in (WALL, BALL, OUTSIDE)]
    assert prompts == ["red", "blue", "sky"] and len(after.prompts) == 3
    assert after.negatives == {after.click(*WALL).chosen: "doors"}
    assert after.chosen == after.click(*BALL).chosen
    merged = read_canvas(pipeline, wall.begin_merge().click(*WALL), more)
    assert merged.page.numbered.regions.n == 4
    assert merged.click(*WALL).chosen == merged.click(*BALL).chosen
    assert merged.click(*WALL).prompt == "blue"
    # The ball is erased: its prompt is removed, with a notice.
    less = strokes()
    less[:, 290:] = 0
    erased = read_canvas(pipeline, wall, less)
    assert sorted(erased.prompts.values()) == ["red", "sky"] and erased.chosen is None
    assert erased.notice.endswith(f"prompts of regions that no longer exist: {wall.chosen}.")
    avoided = read_canvas(pipeline, wall.apply("", "dots"), less)
    assert [*avoided.negatives.values()] == ["doors"] and avoided.notice == erased.notice


def test_regions_continue_by_overlap_and_never_into_the_background():
    before = numbered([[0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 2, 2]])
    assert match_regions(before, before) == {10: 10, 11: 11, 12: 12}
    # Half of the first; the whole of the second, now first; a third of the third, and a new one.
    after = numbered([[1, 1, 2, 0], [1, 1, 2, 0], [3, 4, 4, 4]])
    assert match_regions(before, after) == {10: 11, 11: 10, 12: 14}
    # One old region in many parts continues in none.
    assert match_regions(numbered([[0] * 8]), numbered([[0, 1, 2, 3, 4, 5, 6, 7]])) == {}
    # The inside of a frame around the page is not background.
    sky = numbered([[0] * 8], background=[0])
    assert match_regions(sky, numbered([[1, 0, 0, 0, 0, 0, 1, 1]], background=[1])) == {10: 11}


def test_an_uploaded_sketch_on_the_canvas_is_the_same_sketch_and_can_be_drawn_on(pipeline, rng):
    grey = np.full((90, 70), 40, np.uint8)  # chalk on a board
    cv2.circle(grey, (35, 45), 20, 230, 3)
    session = upload_sketch(pipeline, grey).click(0.5, 0.5).apply("blue")
    assert session.page.numbered.regions.n == 2
    canvas = on_canvas(session)
    assert canvas.shape == (512, 512, 3)
    layers = np.dstack([canvas, np.full(canvas.shape[:2], 255, np.uint8)])
    assert read_canvas(pipeline, session, layers) is session
    cv2.line(layers, (256, 0), (256, 511), (0, 0, 0, 255), 6)
    assert read_canvas(pipeline, session, layers).page.numbered.regions.n == 4
    for size in ((16, 16), (64, 64), (48, 72), (72, 104), (512, 768), (1024, 512)):
        (height, width), scale = canvas_size(size), page_scale(size)
        assert max(height, width) >= 512 and height * size[1] == width * size[0]
        assert height % (scale * size[0]) == width % (scale * size[1]) == 0


def layers_of(canvas):
    return np.dstack([canvas, np.full(canvas.shape[:2], 255, np.uint8)])


def test_the_canvas_has_the_proportions_of_an_uploaded_sketch_or_of_the_chosen_size(pipeline):
    grey = np.full((200, 300), 255, np.uint8)
    cv2.circle(grey, (100, 100), 60, 0, 5)
    session = upload_sketch(pipeline, grey)
    assert session.size == session.page.size == (12, 20)
    canvas = on_canvas(session)
    assert (
        canvas.shape == (*canvas_size((12, 20)), 3) and canvas.shape[0] * 5 == canvas.shape[1] * 3
    )
    assert read_canvas(pipeline, session, layers_of(canvas)) is session
    # A click in the circle, which is left of the middle.
    inside = session.click(0.34, 0.5)
    outside = session.click(0.9, 0.5)
    assert inside.chosen != outside.chosen
    figure = inside.figure
    assert (figure == HIGHLIGHT).all(-1)[:, : figure.shape[1] // 2].any()
    # A stroke is drawn where it is on the canvas.
    layers = layers_of(canvas)
    cv2.circle(layers, (round(0.8 * layers.shape[1]), layers.shape[0] // 2), 70, (0, 0, 0, 255), 8)
    drawn = read_canvas(pipeline, inside.apply("blue"), layers)
    assert drawn.page.size == (12, 20) and drawn.page.numbered.regions.n == 3
    assert drawn.click(0.34, 0.5).prompt == "blue"
    assert len({drawn.click(x, 0.5).chosen for x in (0.34, 0.8)}) == 2
    # Another size places the sketch anew; the canvas stays when it is cleared.
    wide = resized_session(pipeline, drawn, 28, 16)
    assert wide.page.size == wide.size == (16, 28) and wide.page.numbered.regions.n == 3
    assert resized_session(pipeline, wide, 28, 16) is wide
    paper = np.full((*canvas_size((16, 28)), 3), 255, np.uint8)
    cleared = read_canvas(pipeline, wide, layers_of(paper))
    assert cleared == Session(size=(16, 28))
    np.testing.assert_array_equal(on_canvas(cleared), paper)
    again = read_canvas(pipeline, cleared, layers_of(on_canvas(wide)))
    np.testing.assert_array_equal(again.page.page, wide.page.page)
    assert resized_session(pipeline, Session(), None, None) == Session()
    assert resized_session(pipeline, Session(), 24, None).size == (24, 24)
    with pytest.raises(UserError, match="width is 23; choose a multiple of 4"):
        resized_session(pipeline, wide, 23, None)


def test_the_setting_for_splits_finds_regions_anew_and_keeps_prompts(pipeline):
    grey = np.full((256, 256), 255, np.uint8)
    cv2.rectangle(grey, (30, 40), (226, 240), 0, 5)
    cv2.rectangle(grey, (46, 110), (210, 170), 0, 5)  # a window that narrows its wall at both sides
    session = upload_sketch(pipeline, grey).click(0.5, 0.55).apply("blue")
    canvas = on_canvas(session)
    layers = np.dstack([canvas, np.full(canvas.shape[:2], 255, np.uint8)])
    whole = read_canvas(pipeline, session, layers, 0)
    assert (session.page.numbered.regions.n, whole.page.numbered.regions.n) == (4, 3)
    assert whole.click(0.5, 0.55).prompt == "blue"
    assert whole.page.neck_splits == 0 and (whole.page.lines == session.page.lines).all()
    assert read_canvas(pipeline, whole, layers, 0) is whole
    with pytest.raises(UserError, match="neck_splits is -1"):
        read_canvas(pipeline, whole, layers, -1)


def test_without_a_sketch_there_is_nothing_to_choose(pipeline, drawn):
    blank = np.zeros((512, 512, 4), np.uint8)
    sessions = [read_canvas(pipeline, drawn, layers) for layers in (None, blank)]
    # A notice on an upload without lines is not lost when the empty canvas is read.
    uploads = [np.full((9, 9), 7, np.uint8), cv2.cvtColor(astronaut(), cv2.COLOR_RGB2GRAY)]
    for grey, notice in zip(uploads, ("is blank", "filled picture or a photo"), strict=True):
        session = upload_sketch(pipeline, grey)
        assert notice in session.notice and "--" not in session.notice
        assert read_canvas(pipeline, session, blank) is session
        sessions.append(session._replace(notice=""))
    for session in sessions:
        assert session == Session() and session.figure is None
        assert on_canvas(session) is None
        assert session.click(0.5, 0.5).chosen is None
        for change in (Session.begin_merge, Session.unmerge, lambda x: x.apply("red")):
            with pytest.raises(UserError, match="No region is chosen"):
                change(session)
        with pytest.raises(UserError, match="There is no sketch yet"):
            next(generate(pipeline, session, "a house", "", 0))


def test_an_upload_that_is_cropped_says_so_at_once_and_with_the_result(pipeline):
    grey = np.full((300, 300), 255, np.uint8)
    cv2.circle(grey, (150, 150), 40, 0, 4)
    session = upload_sketch(pipeline, grey)
    expected = (
        r"The sketch was cropped to its ink with a margin, \d+% of its width and \d+% of its "
    )
    assert re.fullmatch(expected + r"height\.", session.notice)
    *_, last = generate(pipeline, session, "a house", "", 0, steps=3, guidance=0.0)
    assert session.notice in last.status and "--" not in last.status
    assert "guidance is 0" in last.status


def test_an_upload_that_is_no_image_is_named_without_the_servers_folder(tmp_path):
    for name in ("x.heic", "no picture.png", "a\u200b.png"):
        path = tmp_path / name
        path.write_bytes(b"no picture")
        with pytest.raises(UserError, match="^The sketch ") as caught:
            read_upload(str(path))
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", -1, "Seed is -1; choose a whole number from 0 to 4294967295."),
        ("count", 99, "Images is 99; choose a whole number from 1 to 9."),
        ("count", None, "Images is empty; choose a whole number from 1 to 9."),
        ("steps", 51, "Steps is 51; choose a whole number from 1 to 50."),
        ("steps", 2.5, "Steps is 2.5; choose a whole number from 1 to 50."),
        ("guidance", 15.5, "Guidance scale is 15.5; choose a number from 0 to 15."),
        ("sketch_guidance", 10**30, f"Sketch guidance scale is {10**30}; choose a number"),
        ("sketch_strength", float("nan"), "Sketch strength is nan; choose a number from 0 to 2."),
        ("region_base_ratio", 1.1, "Region base ratio is 1.1; choose a number from 0 to 1."),
        ("strength", "abc", "Stage 2 strength is abc; choose a number from 0 to 1."),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_the_name_of_its_field(name, value, expected):
    with pytest.raises(UserError) as caught:
        checked_settings({"sampler": "ddim", name: value}, 50)
    assert str(caught.value).startswith(expected)


def test_numbers_in_their_range_are_kept_and_empty_fields_are_defaults():
    given = {"seed": 3.0, "count": 9, "steps": None, "guidance": 1.5, "sampler": "ddim"}
    checked = checked_settings(given, 1000)
    assert checked == given and isinstance(checked["seed"], int)
    with pytest.raises(UserError, match="Neck splits is 1001; choose a number"):
        NECK_SPLITS_FIELD.checked(1001)


def test_sliders_set_the_strengths_of_loras_and_controls():
    loras = (Lora("/a/style.safetensors", 0.8, -3.0, "1f"), Lora("b.safetensors"))
    settings = ControlSettings(1.5, 0.1, 0.9, "guess")
    controls = (Control(WeightFiles("/a/depth", "2e"), None, {}, settings),)
    groups = *lora_sliders(loras), *control_sliders(controls)
    sliders = {name: slider for one in groups for name, slider in one.items()}
    assert list(sliders.values()) == [
        ("style, UNet", 0.8, -2, 2),
        ("style, text encoder", -3.0, -3, 3),
        ("b, UNet", 1.0, -2, 2),
        ("b, text encoder", 1.0, -2, 2),
        ("depth, strength", 1.5, -2, 2),
        ("depth, start", 0.1, 0, 1),
        ("depth, end", 0.9, 0, 1),
    ]
    values = (0.1, 0.2, 0.3, 0.4, -0.5, 0.2, 0.8)
    given = {"steps": 3, **dict(zip(sliders, values, strict=True))}
    chosen = [Lora("/a/style.safetensors", 0.1, 0.2, "1f"), Lora("b.safetensors", 0.3, 0.4)]
    assert with_networks(given, loras, controls) == {
        "steps": 3,
        "loras": chosen,
        "controls": [ControlSettings(-0.5, 0.2, 0.8, "guess")],
    }
    assert with_networks({"steps": 3}, (), ()) == {"steps": 3, "loras": [], "controls": []}


def test_transparent_is_white_and_half_of_it_half():
    layers = np.zeros((1, 3, 4), np.uint8)
    layers[0, 1] = 0, 0, 0, 255
    layers[0, 2] = 255, 255, 255, 128
    assert flattened(layers).tolist() == [[255, 0, 255]]


def test_what_is_shown_is_what_the_pipeline_samples(rng, pipeline, drawn, tmp_path):
    session = drawn.click(*WALL).apply("red", "small").click(*OUTSIDE).apply("", "blue")
    seed = int(rng.integers(2**32 - 1))
    asked = {"negative_prompt": "green", "seed": seed, "count": 2, "steps": 3}
    *shown, last = generate(pipeline, session, "a house", **asked)
    assert shown[0].status.startswith("Compiling: usually")
    assert [x.status for x in shown[1:]] == [
        f"Image {image} of 2: Stage {stage}, step {i} of 3"
        for image in (1, 2)
        for stage in (1, 2)
        for i in (1, 2, 3)
    ]
    # Previews of the stage that is sampled, after the images that are finished.
    assert [len(x.images) for x in shown] == [0] + [1] * 6 + [2] * 6
    assert [len(x.coarse) for x in shown] == [0] + [1] * 6 + [2] * 6
    negatives = {"region_negative_prompts": session.negatives}
    expected = pipeline(session.page, "a house", session.prompts, **negatives, **asked)
    np.testing.assert_array_equal(last.images, [enlarge(x, SHOWN) for x in expected.images])
    np.testing.assert_array_equal(last.coarse, [enlarge(x, SHOWN) for x in expected.coarse])
    assert last.attention is not None and re.match(r"Done in \d+\.\d s\.", last.status)
    assert last.result.settings == expected.settings
    assert sorted(expected.settings["region_negative_prompts"].values()) == ["blue", "small"]
    files = zipfile.ZipFile(write_archive(last.result, tmp_path)).namelist()
    for name in ("metadata.json", "stage2_output.png", f"images/{seed + 1}.png"):
        assert f"ragaf_seed{seed}/{name}" in files


def test_one_stage_alone_is_the_result_and_wrong_settings_are_refused(pipeline, drawn):
    *_, both = generate(pipeline, drawn, "a house", "", 0, steps=3)
    *shown, alone = generate(pipeline, drawn, "a house", "", 0, steps=3, stages="1")
    np.testing.assert_array_equal(alone.images, both.coarse)
    assert alone.attention is None and not any(x.coarse for x in (*shown, alone))
    assert shown[1].status == "Stage 1, step 1 of 3"
    for wrong, reason in (
        ({"steps": 0}, "steps is 0"),
        ({"count": 0}, "count is 0"),
        ({"count": 2, "seed": 2**32 - 1}, f"The seed is {2**32}"),
    ):
        with pytest.raises(UserError, match=reason):
            next(generate(pipeline, drawn, "a house", "", **({"seed": 0} | wrong)))
