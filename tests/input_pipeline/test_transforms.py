import numpy as np
import pytest
from miniature import SIZE

from input_pipeline.datasets.sides import mirrored_sentence, swap_sides
from input_pipeline.mirror import mirror_record
from input_pipeline.transforms import ChooseCaption, RandomFlip, ToExample, VaryTags
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig, region_graph
from ragaf_jax.graph.regions import Regions
from ragaf_jax.palette import PALETTE


@pytest.fixture
def record(source, rng):
    return source[int(rng.integers(len(source)))]


def test_mirroring_twice_changes_nothing(record):
    twice = mirror_record(mirror_record(record))
    for name, value in record.items():
        if name in ("nodes", "edges"):
            np.testing.assert_allclose(twice[name], value, atol=1e-6)
        else:
            np.testing.assert_array_equal(twice[name], value)


def test_the_mirrored_graph_is_the_graph_of_the_mirrored_regions(source):
    for index in range(0, len(source), 2):
        mirrored = mirror_record(source[index])
        background = mirrored["nodes"][:, -1] > 0
        labels = mirrored["labels"].astype(np.int32)
        fresh = region_graph(Regions(labels, len(background), background), GraphConfig())
        np.testing.assert_allclose(mirrored["nodes"], fresh.nodes, atol=1e-5)
        edges = dict(
            zip(zip(fresh.senders, fresh.receivers, strict=True), fresh.edges, strict=True)
        )
        pairs = zip(mirrored["senders"], mirrored["receivers"], strict=True)
        for pair, features in zip(pairs, mirrored["edges"], strict=True):
            np.testing.assert_allclose(features, edges[pair], atol=1e-5)


def test_captions_stay_true_in_the_mirror(source):
    sided = 0
    for index in range(len(source)):
        for record in (source[index], mirror_record(source[index])):
            for phrase in record["captions"][0].partition(": ")[2].split(", "):
                _, color, place = phrase.split(" ", 2)
                asked = np.flatnonzero(record["true_colors"] == PALETTE.index(color)) + 1
                x = [np.nonzero(record["true_labels"] == part)[1].mean() / 64 for part in asked]
                if place.endswith("left"):
                    assert min(x) < 0.43
                    sided += 1
                elif place.endswith("right"):
                    assert max(x) > 0.57
                    sided += 1
    assert sided >= 4


@pytest.mark.parametrize(
    "caption, mirrored",
    [
        (
            "cap: small red top left, large blue on the right",
            "cap: small red top right, large blue on the left",
        ),
        ("left-facing fist: yellow", "right-facing fist: yellow"),
        ("rightwards hand", "leftwards hand"),
        ("left-right arrow", "right-left arrow"),
        ("bright copyright: cleft", "bright copyright: cleft"),
        ("left luggage: blue on the left", "left luggage: blue on the right"),
        ("first quarter moon face: large grey", "last quarter moon face: large grey"),
        ("waxing crescent moon at first", "waning crescent moon at first"),
        ("clockwise vertical arrows", "counterclockwise vertical arrows"),
    ],
)
def test_left_and_right_change_places(caption, mirrored):
    assert swap_sides(caption) == mirrored
    assert swap_sides(mirrored) == caption


def test_about_half_of_the_records_are_flipped(record, rng):
    flip = RandomFlip()
    results = [flip.random_map(record, rng) for _ in range(200)]
    flipped = sum(not np.array_equal(result["sketch"], record["sketch"]) for result in results)
    symmetric = np.array_equal(record["sketch"], record["sketch"][:, ::-1])
    assert symmetric or 60 < flipped < 140


@pytest.mark.parametrize(
    ("mirrors", "caption", "mirrored"),
    [
        (False, "a bench in the rain", None),
        (True, "a bench in the rain", "a bench in the rain"),
        (True, "a bench on the left", "a bench on the right"),
        (True, "a bench is left in the rain", None),
    ],
)
def test_photographs_are_flipped_if_asked_and_their_caption_permits_it(
    record, rng, mirrors, caption, mirrored
):
    photo = record | {"mirrors": mirrors, "mirrored_caption": mirrored_sentence}
    photo["captions"] = [caption]
    results = [RandomFlip().random_map(photo, rng) for _ in range(100)]
    flipped = [result for result in results if result is not photo]
    assert bool(flipped) is (mirrored is not None) and len(flipped) < 100
    for result in flipped:
        assert result["captions"] == [mirrored]
        np.testing.assert_array_equal(result["image"], photo["image"][:, ::-1])


def test_an_image_with_several_captions_is_mirrored_only_if_all_permit_it(record):
    captions = ["a bench", "a bench on the left", "a bench is left alone"]
    photo = record | {"mirrored_caption": mirrored_sentence, "captions": captions}
    assert mirror_record(photo) is photo
    both = mirror_record(photo | {"captions": captions[:2]})
    assert both["captions"] == ["a bench", "a bench on the right"]


TAGS = ["1girl", "solo", "long hair", "red eyes", "smile"]


@pytest.mark.parametrize("keep", [0, 2, 9])
@pytest.mark.parametrize(("shuffle", "dropout"), [(True, 0.0), (False, 0.3), (True, 0.3)])
def test_tags_are_varied_as_kohyas(rng, keep, shuffle, dropout):
    """The first ones stay, the others are shuffled and each dropped by chance."""
    vary, record = VaryTags(shuffle, dropout, keep), {"captions": [" , ".join(TAGS) + ","]}
    found = []
    for _ in range(600):
        tags = vary.random_map(record, rng)["captions"][0].split(", ")
        tags = [tag for tag in tags if tag]  # none is left of the empty caption
        assert tags[:keep] == TAGS[:keep] and len(set(tags)) == len(tags) <= len(TAGS)
        assert set(tags) <= set(TAGS)
        assert shuffle or tags == [tag for tag in TAGS if tag in tags]
        found.append(tuple(tags))
    kept, others = len(TAGS[:keep]), len(TAGS[keep:])
    counts = np.array([len(tags) - kept for tags in found])
    # Ten standard deviations of a binomial distribution.
    spread = 10 * np.sqrt(others * dropout * (1 - dropout) / len(found))
    assert abs(counts.mean() - others * (1 - dropout)) <= spread
    orders = {tags for tags in found if len(tags) == len(TAGS)}
    assert len(orders) > 1 if shuffle and others > 1 else orders <= {tuple(TAGS)}
    assert record["captions"] == [" , ".join(TAGS) + ","]


def test_without_shuffle_and_dropout_captions_stay_as_they_are(rng):
    record = {"captions": ["a cat,a dog ,"]}
    assert VaryTags(False, 0.0, 0).random_map(record, rng) is record


def test_cached_states_are_those_of_the_caption_that_was_chosen(source, record):
    captions = ["a large red house", "a small blue tree"]
    states = {text: (np.full((40, 8), i, np.float32), None) for i, text in enumerate(captions)}
    told = record | {"captions": captions, "text_states": states}
    to_example = ToExample(source.tokenizer, text_length=40, max_regions=33, max_edges=192)
    for caption in captions:
        example = to_example.map(told | {"captions": [caption]})
        np.testing.assert_array_equal(example.text.states, states[caption][0])
        np.testing.assert_array_equal(
            example.text.tokens, source.tokenizer.encode([caption], 40)[0][0]
        )


def test_an_example_is_what_the_model_takes(source, record):
    example = ToExample(source.tokenizer, text_length=40, max_regions=33, max_edges=192).map(record)
    assert example.image.shape == example.sketch.shape == (64, 64, 3)
    assert example.image.dtype == example.sketch.dtype == np.float32
    np.testing.assert_allclose(example.image, record["image"] / 127.5 - 1.0, atol=1e-6)
    assert (example.sketch[record["sketch"][..., 0] == 255] == 0).all()
    assert (example.sketch[record["sketch"][..., 0] == 0] == 1).all()
    np.testing.assert_array_equal(example.labels, record["labels"])
    assert example.labels.dtype == np.int32

    n = len(record["nodes"])
    assert example.graph.n_node.tolist() == [n, 33 - n]
    assert example.graph.nodes.shape[0] == 33 and example.graph.edges.shape[0] == 192
    np.testing.assert_array_equal(example.graph.nodes[:n], record["nodes"])

    words = source.tokenizer.pieces(example.text.tokens[example.text.mask].tolist())[1:-1]
    assert "".join(words) == record["captions"][0].lower().replace(" ", "")


def scripts_sizes(source, size, mirrored=False):
    """The sizes of diffusers' train_text_to_image_sdxl.py with --center_crop, height first.

    The image is resized until it covers `size`. A mirrored crop is that of the mirrored image.
    """
    cover = np.rint(np.array(source) * max(np.array(size) / source))
    top, left = (max(0, round((a - b) / 2.0)) for a, b in zip(cover, size, strict=True))
    left = cover[1] - size[1] - left if mirrored else left
    return np.array([*source, top, left, *size])


def test_sizes_are_those_of_the_image_before_it_was_cropped(source, record, rng):
    to_example = ToExample(source.tokenizer, text_length=40, max_regions=33, max_edges=192)

    def sizes_of(*source_size, **changes):
        given = record | {"source_size": np.array(source_size, np.int32)} | changes
        found = [to_example.map(x).sizes for x in (given, mirror_record(given))]
        assert all(x.shape == (6,) and x.dtype == np.float32 for x in found)
        np.testing.assert_array_equal(
            to_example.map(mirror_record(mirror_record(given))).sizes, found[0]
        )
        return found

    whole = [(192, 128), (128, 192), (128, 128), (256, 640)]  # offsets without fractions
    for source_size in [*whole, *rng.integers(128, 900, (40, 2)).tolist()]:
        plain, mirrored = sizes_of(*source_size, cropped=True)
        for found, turned in ((plain, False), (mirrored, True)):
            expected = scripts_sizes(source_size, (SIZE, SIZE), turned)
            np.testing.assert_array_equal(found[[0, 1, 4, 5]], expected[[0, 1, 4, 5]])
            # Preparation crops whole pixels before it resizes, so offsets may differ by one pixel.
            assert np.abs(found - expected).max() <= (0 if source_size in whole else 1)
        margins = sizes_of(*source_size, cropped=False)
        np.testing.assert_array_equal(margins, [[*source_size, 0, 0, SIZE, SIZE]] * 2)
    # An odd pixel of the image is at its right, and at the left of the mirror image.
    plain, mirrored = sizes_of(SIZE, SIZE + 5, cropped=True)
    np.testing.assert_array_equal(plain, [SIZE, SIZE + 5, 0, 2, SIZE, SIZE])
    np.testing.assert_array_equal(mirrored, [SIZE, SIZE + 5, 0, 3, SIZE, SIZE])


def test_sizes_of_squares_are_their_own(source, record):
    to_example = ToExample(source.tokenizer, text_length=40, max_regions=33, max_edges=192)
    for each in (record, mirror_record(record), record | {"cropped": True}):
        np.testing.assert_array_equal(to_example.map(each).sizes, [SIZE, SIZE, 0, 0, SIZE, SIZE])


def test_edges_over_the_budget_are_left_out(source, record):
    n = len(record["nodes"])
    example = ToExample(source.tokenizer, 40, max_regions=n + 1, max_edges=n).map(record)
    assert example.graph.n_edge.tolist() == [n, 0]
    np.testing.assert_array_equal(example.graph.senders, example.graph.receivers)


def test_regions_over_the_budget_are_an_error(source, record):
    with pytest.raises(UserError, match="raise max_nodes"):
        ToExample(source.tokenizer, 40, max_regions=len(record["nodes"]), max_edges=192).map(record)


def test_one_of_several_captions_is_chosen(source, record, rng):
    record["captions"] = [source[i]["captions"][0] for i in (0, 2, 4)]
    before = list(record["captions"])
    chosen = [ChooseCaption().random_map(record, rng)["captions"] for _ in range(60)]
    assert all(len(captions) == 1 for captions in chosen) and record["captions"] == before
    assert {captions[0] for captions in chosen} == set(before)
