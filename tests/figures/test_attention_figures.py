"""Figures show their inputs at a legible size."""

import json

import numpy as np
import pytest
from pictures import contains
from PIL import Image

from ragaf_jax.errors import UserError
from ragaf_jax.figures import attention as attention_figure
from ragaf_jax.figures.attention import attention_maps
from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.figures.curves import curves, read_metrics, smoothed
from ragaf_jax.figures.lettering import GAP, cut_to, enlarge, font, shortened, text_block, wrap
from ragaf_jax.figures.overview import overview, write_overview
from ragaf_jax.figures.phrases import phrases
from ragaf_jax.figures.results import comparison, fusion_curves
from ragaf_jax.tokenizer import UNKNOWN, Tokenizer

CAPTION = "house: large red at the top, small brown at the bottom left"


def random_picture(rng, side=64):
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_wrapped_lines_fit_and_lose_no_word(rng):
    letters = np.array(list("abcdefghij klmno wi"))
    text = "".join(rng.choice(letters, 300)) + " " + "w" * 200
    for width in (40, 150, 600):
        lines = wrap(text, width, 15)
        assert max(font(15).getlength(line) for line in lines) <= width
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_cut_line_fits_with_its_ellipsis():
    text = "0.21 8 (unknown) (unknown) red ."
    whole = font(14).getlength(text)
    for width in range(40, int(whole) + 20, 7):
        line = cut_to(text, width, 14)
        assert font(14).getlength(line) <= width
        assert line == text if whole <= width else line.endswith(" …")
        assert text.startswith(line.removesuffix(" …"))


def test_a_text_block_is_as_wide_as_asked_and_higher_for_more_text():
    short, long = text_block("a house", 200), text_block("a house " * 20, 200)
    assert short.shape[1] == long.shape[1] == 200
    assert long.shape[0] > 3 * short.shape[0]
    assert short.min() < 100
    assert text_block("  ", 200).shape == (0, 200, 3)
    # A script that the font lacks is shown as boxes and is no error.
    assert text_block("家 🏠", 200).min() < 100


@pytest.mark.parametrize("letters", ["éèüñçÅ", "ΣЖя", "שم", "≥→✓"])
def test_letters_of_many_languages_are_no_boxes(letters):
    box = font(40).getmask("\U000ff000")
    for letter in letters:
        assert bytes(font(40).getmask(letter)) != bytes(box), letter


@pytest.mark.parametrize(("side", "factor"), [(64, 3), (32, 6), (192, 1), (256, 1), (100, 2)])
def test_pictures_are_enlarged_by_whole_pixels(rng, side, factor):
    picture = random_picture(rng, side)
    large = enlarge(picture, 192)
    assert large.shape[0] == side * factor
    for _ in range(20):
        y, x = rng.integers(0, side * factor, 2)
        assert (large[y, x] == picture[y // factor, x // factor]).all()


def test_a_comparison_shows_its_three_pictures(rng):
    sketch = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    made = {name: rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for name in ("one", "two")}
    figure = comparison(sketch, made, [CAPTION, "seed 2"])
    for picture in (sketch, *made["one"], *made["two"]):
        assert contains(figure, enlarge(picture, 192))
    alone = comparison(sketch, {"one": made["one"][:1]}, [CAPTION])
    assert alone.shape[0] < figure.shape[0] and alone.shape[1] < figure.shape[1]


@pytest.mark.parametrize("regions", [1, 12, 40])
def test_fusion_is_drawn_as_curves(rng, regions):
    levels = (0.9, 0.5, 0.1)
    alpha = rng.random((3, regions))
    fusion = np.stack([alpha, 1 - alpha], -1)
    numbers = tuple(rng.permutation(100)[:regions].tolist())
    figure = fusion_curves(levels, fusion, numbers)
    assert figure.shape[0] >= 500 and figure.shape[1] >= 700
    # A curve moves with its values, and all regions have one.
    assert (fusion_curves(levels, fusion[:, :, ::-1], numbers) != figure).any()
    inked = np.ptp(figure.astype(int), axis=-1) > 60  # coloured
    flat = np.full_like(fusion, 0.5)
    assert inked.sum() > 200 and (np.ptp(fusion_curves(levels, flat, numbers), -1) > 60).any()


def test_a_contact_sheet_shows_every_picture_and_grows_with_its_captions(rng):
    titles = ("sketch", "regions", "stage 1", "stage 2", "true")
    rows = [SheetRow([random_picture(rng) for _ in titles], CAPTION) for _ in range(3)]
    figure = contact_sheet(rows, titles)
    assert all(contains(figure, enlarge(p, 192)) for row in rows for p in row.images)
    longer = contact_sheet([row._replace(caption=CAPTION * 9) for row in rows], titles)
    assert longer.shape[0] > figure.shape[0] and longer.shape[1] == figure.shape[1]


def test_a_contact_sheet_has_pictures_of_several_sizes_in_the_middle_of_its_columns(rng):
    titles, sizes = ("sketch", "true"), ((64, 64), (40, 96), (96, 41))
    rows = [
        SheetRow([rng.integers(0, 250, (*size, 3), np.uint8) for _ in titles], "") for size in sizes
    ]
    figure = contact_sheet(rows, titles)
    assert figure.shape[1] == 2 * 192 + GAP + 4 * GAP  # as of squares
    for row in rows:
        for column, picture in enumerate(row.images):
            begin = 2 * GAP + column * (192 + GAP)
            cell = figure[:, begin : begin + 192]
            large = enlarge(picture, 192)
            spare = 192 - large.shape[1]
            assert contains(cell[:, spare // 2 : 192 - (spare - spare // 2)], large)


def test_a_long_caption_is_cut(rng):
    row = SheetRow([random_picture(rng)] * 3, "house " * 10_000)
    once = contact_sheet([row._replace(caption="house")], "abc")
    assert contact_sheet([row], "abc").shape[0] - once.shape[0] < 250
    assert shortened(CAPTION) == CAPTION
    cut = shortened("house " * 10_000)
    assert 390 < len(cut) <= 400 and cut.endswith("house …")
    assert shortened("x" * 500) == "x" * 398 + " …"
    assert shortened(" " * 500 + "house") == "house"


def test_an_overview_shows_what_there_is_up_to_a_hundred(rng, tmp_path):
    names = [f"row{i}" for i in range(102)]
    for name in names:
        (tmp_path / name).mkdir()
        Image.fromarray(random_picture(rng, 8)).save(tmp_path / name / "stage2_output.png")
    (tmp_path / "row0" / "prompt.txt").write_text("a house\n3: red\n")
    few, all_of_them = overview(tmp_path, names[:2]), overview(tmp_path, names)
    for name, seen in (("row1", True), ("row99", True), ("row100", False)):
        image = np.array(Image.open(tmp_path / name / "stage2_output.png"))
        assert contains(all_of_them, enlarge(image, 128)) == seen
    assert few.shape[1] < 200 and all_of_them.shape[0] < 7000  # one column, then three
    (tmp_path / "row1" / "stage2_output.png").unlink()
    write_overview(tmp_path, ["row1"])
    assert not (tmp_path / "overview.png").exists()


def pieces_of(text, known=CAPTION + " a with and of cat on sofa"):
    tokenizer = Tokenizer.train([known], 50)
    return tokenizer.pieces(tokenizer.encode([text], 24)[0][0].tolist())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        # A place belongs to its object, and function words to their phrase.
        (
            "house: small purple at the top, large",
            ["house", "small (unknown) at the top", "large"],
        ),
        (
            "a house with a red top and a cat on the sofa",
            ["a house", "with a red top", "and a cat", "on the sofa"],
        ),
        ("a cat and with a house", ["a cat", "and with a house"]),
        # One phrase is split into words, "of" with the next word.
        ("a small red house of the cat", ["a small", "red", "house", "of the cat"]),
        ("a house of the", ["a house of the"]),
        ("the", ["the"]),
        (", : ,", []),
        ("", []),
    ],
)
def test_attention_is_shown_by_phrase(prompt, expected):
    pieces = pieces_of(prompt)
    found = phrases(pieces)
    assert [text for text, _ in found] == expected
    positions = [position for _, each in found for position in each]
    expected_positions = [
        i for i, piece in enumerate(pieces) if piece[0] not in ",:<" or piece == UNKNOWN
    ]
    assert positions == expected_positions  # each once, in order


def test_a_phrase_ends_with_its_text():
    """Texts of regions stand behind the prompt without a frame of their own."""
    pieces = pieces_of("small red house large brown")
    texts = np.zeros(24, int)
    texts[3], texts[4:6] = 1, 2
    assert phrases(pieces, texts) == [
        ("small red", [1, 2]),
        ("house", [3]),
        ("large brown", [4, 5]),
    ]


def test_pieces_of_one_word_are_joined():
    frame = "<|startoftext|>", "<|endoftext|>"
    pieces = [frame[0], "a</w>", "pur", "ple</w>", ",</w>", "t</w>", "-</w>", "shi", "rt</w>"]
    pieces += [frame[1], frame[1]]
    assert phrases(pieces) == [("a purple", [1, 2, 3]), ("t shirt", [5, 7, 8])]
    # A text that is cut within a word does not run into the next one.
    cut = ["a</w>", ",</w>", "pur"]
    assert phrases([frame[0], *cut, frame[1], "red</w>"]) == [
        ("a", [1]),
        ("pur", [3]),
        ("red", [5]),
    ]
    assert phrases(cut) == [("a", [0]), ("pur", [2])]


def attention_case(rng, regions=5, side=64):
    tokenizer = Tokenizer.train([CAPTION], 50)
    tokens, mask = tokenizer.encode([CAPTION], 20)
    labels = np.kron(rng.permutation(16).reshape(4, 4) % regions, np.ones((side // 4,) * 2, int))
    alpha = rng.uniform(size=regions)
    return {
        "sketch": np.full((side, side), 255, np.uint8),
        "labels": labels.astype(np.int32),
        "attention": rng.dirichlet(np.where(mask[0], 1.0, 1e-3), regions).astype(np.float32),
        "pieces": tokenizer.pieces(tokens[0].tolist()),
        "fusion": np.stack([alpha, 1 - alpha], 1).astype(np.float32),
        "numbers": tuple(range(regions)),
    }


def map_of(figure, place, case):
    """The colours of a phrase's map, of three beside one another, in the middle of every pixel."""
    titles = [text for text, _ in phrases(case["pieces"])]
    assert len(titles) == 3
    # A margin of 16, the titles, and maps of 240 pixels with gaps of 8.
    top = 16 + max(len(text_block(title, 240, 16)) for title in titles) + 2
    middle = np.rint((np.arange(64) + 0.5) * 240 / 64).astype(int)
    return figure[top + middle[:, None], 16 + place * 248 + middle].astype(int)


def test_attention_maps_paint_each_region_by_its_attention(rng):
    case = attention_case(rng)
    shown = phrases(case["pieces"])
    weights = np.stack([case["attention"][:, positions].sum(1) for _, positions in shown], 1)
    region, phrase = np.unravel_index(weights.argmax(), weights.shape)
    figure = attention_maps(**case)
    assert figure.shape[1] == 4 * 248 - 8 + 32  # letters of 16 px on about 1000
    inside = case["labels"][1:-1, 1:-1]
    colors = map_of(figure, int(phrase), case)[1:-1, 1:-1]
    assert (colors[inside == region] == (128, 0, 38)).all(1).mean() > 0.9
    # Eight bits a channel cannot tell attentions closer than about a hundredth of the strongest.
    darkness = 3 * 255 - np.array([np.median(colors.sum(2)[inside == r]) for r in range(5)])
    more = np.subtract.outer(weights[:, phrase], weights[:, phrase]) > 0.01 * weights.max()
    assert more[region].any()
    assert (np.subtract.outer(darkness, darkness)[more] > 0).all()


def test_attention_maps_follow_a_renaming_of_regions(rng):
    case = attention_case(rng)
    new = rng.permutation(5)
    old = np.argsort(new)
    renamed = case | {
        "labels": new[case["labels"]].astype(np.int32),
        "attention": case["attention"][old],
        "fusion": case["fusion"][old],
        "numbers": case["numbers"],
    }
    before, after = attention_maps(**case), attention_maps(**renamed)
    for phrase in range(3):
        colors = [map_of(figure, phrase, case) for figure in (before, after)]
        assert (colors[0] == colors[1]).all()


def test_regions_are_listed_in_the_order_of_their_numbers(rng, monkeypatch):
    listed = []
    bar = attention_figure._fusion_bar
    monkeypatch.setattr(
        attention_figure, "_fusion_bar", lambda *args: listed.append(args) or bar(*args)
    )
    case = attention_case(rng) | {"numbers": (2, 0, 1, 7, 4)}  # by falling area
    attention_maps(**case)
    assert [args[0] for args in listed] == [0, 1, 2, 4, 7]
    alpha = dict(zip(case["numbers"], case["fusion"][:, 0].tolist(), strict=True))
    assert [args[1] for args in listed] == [alpha[args[0]] for args in listed]


@pytest.mark.parametrize("regions", [1, 2, 32])
def test_attention_maps_take_any_number_of_regions_and_no_words(rng, regions):
    case = attention_case(rng, regions)
    with_words = attention_maps(**case)
    without = attention_maps(**(case | {"pieces": ["<|startoftext|>"] + ["<|endoftext|>"] * 19}))
    assert with_words.shape[0] > without.shape[0] > 384


def test_attention_maps_have_one_size_whatever_that_of_the_sketch(rng):
    case = attention_case(rng)
    fine = case | {"sketch": np.full((512, 512), 255, np.uint8)}
    np.testing.assert_array_equal(attention_maps(**fine), attention_maps(**case))


def write_metrics(path, lines, end=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path


def test_metrics_are_read_back_and_a_cut_line_is_passed_over(rng, tmp_path):
    losses = rng.uniform(size=20).tolist()
    lines = [{"step": 10 * i, "loss": value} for i, value in enumerate(losses)]
    lines.insert(7, {"step": 60, "validation/true": 0.5})
    path = write_metrics(tmp_path / "metrics.jsonl", lines, end='{"step": 200, "lo')
    series = read_metrics(path)
    assert series["loss"] == ([10 * i for i in range(20)], losses)
    assert series["validation/true"] == ([60], [0.5])
    figure = curves({"Stage 1": path, "Stage 2": path})
    assert figure.shape[1] > 1.5 * curves({"Stage 1": path}).shape[1]
    assert figure.min() < 50


def test_metrics_without_numbers_end_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="contain no values"):
        read_metrics(write_metrics(tmp_path / "metrics.jsonl", [], end="{"))


def test_smoothing_keeps_straight_curves_and_evens_out_noise(rng):
    # Away from the ends, where the window is cut off on one side.
    line = np.linspace(3, 1, 200)
    np.testing.assert_allclose(smoothed(line.tolist())[5:-5], line[5:-5])
    noise = rng.normal(size=2000)
    assert np.std(smoothed(noise.tolist())) < 0.2
    assert smoothed([4.0]) == [4.0]
