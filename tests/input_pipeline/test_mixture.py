"""Mixtures: proportions, order and vocabulary of their datasets."""

import collections
import json

import jax
import numpy as np
import pytest
from miniature import LIMIT, RECOLORINGS

from configs import stage1
from input_pipeline.configured import held_out, open_split
from input_pipeline.loader import train_iterator
from input_pipeline.mixture import Mixture, apportion, parse
from input_pipeline.records import RecordSource
from ragaf_jax.batch import Batch
from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import BOS, EOS, UNKNOWN, Tokenizer

BUDGET = {"text_length": 12, "max_regions": 33, "max_edges": 64}
WINDOW = 1024


@pytest.fixture
def seed(rng) -> int:
    return int(rng.integers(1 << 31))


class Numbered:
    """In-memory copies of one record, numbered by the colours of their tiny images."""

    sizes = ((8, 8),)

    def __init__(self, record, tokenizer, part, length):
        self.tokenizer = tokenizer
        small = record | {name: record[name][:8, :8] for name in ("sketch", "labels")}
        self._records = [
            small | {"image": np.full((8, 8, 3), 100 * part + i, np.uint8)} for i in range(length)
        ]

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._records[index]

    def without(self, *images):
        return self


def mixture(source: RecordSource, lengths, weights) -> Mixture:
    """Of numbered sources of these lengths."""
    record = source[0]
    sources = [Numbered(record, source.tokenizer, i, n) for i, n in enumerate(lengths)]
    return Mixture(tuple(sources), tuple(weights), source.tokenizer)


def read(mixed: Mixture, seed: int, count: int, index: int = 0, processes: int = 1) -> np.ndarray:
    """The first records of `Numbered` that a process trains on, in batches of 16."""
    batches = train_iterator(
        mixed, 16, seed, **BUDGET, process_index=index, process_count=processes
    )
    images = [next(batches).image[:, 0, 0, 0] for _ in range(-(-count // 16))]
    return np.rint((np.concatenate(images)[:count] + 1) * 127.5).astype(int)


def same(a: Batch, b: Batch) -> bool:
    """Whether all arrays of two batches are equal to the last bit."""
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.mark.parametrize(
    "dataset, parts",
    [
        ("coco", [("coco", 1)]),
        ("coco:0.01", [("coco", 0.01)]),
        ("sketchy:0.5,coco:0.5", [("sketchy", 0.5), ("coco", 0.5)]),
        (" folder/a-b : 3 , openmoji/plain", [("folder/a-b", 3), ("openmoji/plain", 1)]),
        ("a:1e3,b:70,c", [("a", 1000), ("b", 70), ("c", 1)]),
    ],
)
def test_names_and_weights(dataset, parts):
    assert parse(dataset) == tuple(parts)


@pytest.mark.parametrize("dataset", ["", "  ", "a,,b", "a,", ",a", ":2", "a, :1"])
def test_a_missing_name(dataset):
    with pytest.raises(UserError, match="contains an empty name; write it like") as error:
        parse(dataset)
    assert repr(dataset) in str(error.value)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-inf", "half", "", "1:2", "1/2"])
def test_a_weight_that_is_none(weight):
    with pytest.raises(UserError, match="is not a finite number above 0; write it like") as error:
        parse(f"sketchy:{weight},coco")
    assert f"the weight {weight!r} in it" in str(error.value)


def test_a_name_said_twice():
    with pytest.raises(UserError, match="names coco twice; name it once, with the sum"):
        parse("coco:1,sketchy,coco:2")


def test_turns_are_in_proportion(rng):
    for _ in range(50):
        weights = rng.uniform(0.2, 5, int(rng.integers(1, 5)))
        n = int(rng.integers(1, 200))
        order = apportion(weights, n)
        counts = np.bincount(order, minlength=len(weights))
        assert counts.min() >= 1 and len(order) == max(n, len(weights))
        # The beginning of more is less, and one each is the only reason to be far from proportion.
        assert order == apportion(weights, n + 50)[: len(order)]
        exact = n * weights / weights.sum()
        if exact.min() >= 1:
            assert (np.abs(counts - exact) <= 1.5).all()


@pytest.mark.parametrize("weights", [(1, 1), (0.3, 0.1), (7, 3), (1, 5, 2)])
def test_shares_are_the_weights_and_every_source_has_its_epochs(source, seed, weights):
    mixed = mixture(source, (64, 90, 50)[: len(weights)], weights)
    parts, own = np.divmod(read(mixed, seed, WINDOW), 100)
    expected = WINDOW * np.array(weights) / sum(weights)
    # Turns are regular: over a window, shares are exact but for the rounding of weights to 1 %.
    counts = np.bincount(parts, minlength=len(weights))
    assert (np.abs(counts - expected) <= 1 + 0.01 * expected).all()
    for i, part in enumerate(mixed.sources):
        times = np.bincount(own[parts == i], minlength=len(part))
        assert times.max() - times.min() <= 1  # whole epochs, and one that is not over


def test_no_source_has_a_place_of_its_own_in_the_batch(source, seed):
    """With one example in sixteen and batches of 16, regular alternation would fix its position."""
    found = read(mixture(source, (50, 50), (1, 15)), seed, WINDOW).reshape(-1, 16)
    places = collections.Counter(np.nonzero(found < 100)[1].tolist())
    assert places.total() == WINDOW // 16
    # Of 64 balls in 16 bins: fewer than 8 filled, or 20 in one, has a chance below 1e-8.
    assert len(places) >= 8 and max(places.values()) < 20


def test_epochs_of_a_source_differ_and_depend_on_the_seed(source, seed):
    mixed = mixture(source, (40, 50), (2, 3))
    orders = [read(mixed, s, 250).tolist() for s in (seed, seed, seed + 1)]
    assert orders[0] == orders[1] != orders[2]
    first = [number for number in orders[0] if number < 100]
    assert first[:40] != first[40:80]


def test_the_global_order_is_the_same_for_any_number_of_processes(source, seed):
    mixed = mixture(source, (40, 50, 55), (0.5, 0.3, 0.2))
    whole = read(mixed, seed, 96)
    for count in (2, 3):
        shares = [read(mixed, seed, 96 // count, index, count) for index in range(count)]
        batches = [share.reshape(-1, 16) for share in shares]
        np.testing.assert_array_equal(np.stack(batches, 1).reshape(-1), whole)


def test_two_processes_read_disjoint_halves_of_everything(source, seed):
    """Two sources of equal weight and length, so that windows contain whole epochs."""
    mixed = mixture(source, (64, 64), (1, 1))
    both = [read(mixed, seed, WINDOW // 2, index, 2) for index in range(2)]
    times = collections.Counter(np.concatenate(both).tolist())
    assert set(times) == {*range(64), *range(100, 164)} and set(times.values()) == {8}
    for half in both:  # neither has one source to itself
        assert 100 < (half < 100).sum() < WINDOW // 2 - 100


def test_a_saved_state_goes_on_with_the_same_batches(config, seed, rng):
    mixed = open_split(config.data, "train")
    batches = train_iterator(mixed, 3, seed, **BUDGET)
    for _ in range(int(rng.integers(1, 12))):
        next(batches)
    state = json.dumps(batches.get_state())
    expected = [next(batches) for _ in range(4)]

    resumed = train_iterator(mixed, 3, seed, **BUDGET)
    next(resumed)
    resumed.set_state(json.loads(state))
    for batch in expected:
        assert same(next(resumed), batch)


def test_a_mixture_of_one_is_that_one(source, seed, rng):
    alone = Mixture((source,), (float(rng.uniform(0.1, 9)),), source.tokenizer)
    plain, mixed = (train_iterator(x, 3, seed, **BUDGET) for x in (source, alone))
    for _ in range(5):
        assert same(next(plain), next(mixed))


def test_by_index_come_the_records_of_one_source_after_the_other(source):
    mixed = mixture(source, (4, 1, 5), (1, 2, 3))
    assert len(mixed) == 10
    found = [int(mixed[i]["image"][0, 0, 0]) for i in range(10)]
    assert found == [0, 1, 2, 3, 100, 200, 201, 202, 203, 204]


@pytest.fixture
def config(data_dir):
    config = stage1.get_config()
    config.data.dir, config.data.recolorings = str(data_dir), RECOLORINGS
    config.data.dataset = "openmoji/plain:0.4,openmoji/recolor:1.2"
    return config


def test_a_configuration_names_a_mixture(config, data_dir):
    mixed = open_split(config.data, "train")
    assert isinstance(mixed, Mixture) and mixed.weights == (0.4, 1.2)
    assert [len(part) for part in mixed.sources] == [LIMIT, LIMIT * RECOLORINGS]
    captions = [caption for i in range(len(mixed)) for caption in mixed[i]["captions"]]
    assert not any(mixed.tokenizer.unknown_words(caption) for caption in captions)
    # As it opens the same vocabulary for every split and in any order.
    config.data.dataset = "openmoji/recolor,openmoji/plain"
    assert open_split(config.data, "test").tokenizer.to_json() == mixed.tokenizer.to_json()

    other = Tokenizer.train(["a pretrained one"])
    assert open_split(config.data, "train", other).tokenizer is other
    config.data.dataset = "openmoji/plain:3"
    one = open_split(config.data, "train")
    assert isinstance(one, RecordSource) and len(one) == LIMIT


def test_what_is_wrong_with_a_part_is_said_of_it(config):
    config.data.max_edges = 32
    with pytest.raises(UserError, match="max_edges 32; the sketches of openmoji/plain have up to"):
        open_split(config.data, "train")
    config.data.max_edges = 192
    config.data.dataset = "openmoji/plain,openmoji/recolor"
    config.data.recolorings = 7
    with pytest.raises(UserError, match="There is no data in .* --dataset=openmoji/recolor"):
        open_split(config.data, "train")


def test_held_out_drawings_are_of_every_part_in_proportion(config):
    parts = open_split(config.data, "validation").sources
    plain, recolor = ([part[i]["key"] for i in range(len(part))] for part in parts)
    _, truth = held_out(config.data, "validation", 4)
    assert len(truth.keys) == 4
    assert [key in plain for key in truth.keys] == [True, False, False, False]
    assert len({key.split("/")[0] for key in truth.keys[1:]}) == 3
    # Of each at least one, and of none more than it has.
    config.data.dataset = "openmoji/plain:1,openmoji/recolor:1000"
    batch, truth = held_out(config.data, "validation", 3)
    assert [key in plain for key in truth.keys] == [True, False, False]
    _, truth = held_out(config.data, "validation", 5000)
    assert len(truth.keys) == len(set(truth.keys)) == 2 * LIMIT
    assert set(truth.keys) <= {*plain, *recolor}
    np.testing.assert_array_equal(
        batch.image[0], parts[0][0]["image"].astype(np.float32) / np.float32(127.5) - 1
    )


def words(tokenizer: Tokenizer) -> list[str]:
    """In the order of their ids."""
    return tokenizer.pieces(range(tokenizer.vocab_size))


def some_captions(rng, alphabet: str) -> list[str]:
    letters = list(alphabet)
    return [
        " ".join("".join(rng.choice(letters, 2)) for _ in range(int(rng.integers(1, 9))))
        for _ in range(60)
    ]


def test_a_union_has_the_words_of_all(rng):
    texts = [some_captions(rng, alphabet) for alphabet in ("abcde", "cdefg", "xyz")]
    parts = [Tokenizer.train(captions) for captions in texts]
    union = Tokenizer.union(parts)
    assert set(words(union)) == set().union(*map(words, parts))
    assert len(set(words(union))) == union.vocab_size
    assert words(union)[:3] == words(parts[0])[:3] == [BOS, EOS, UNKNOWN]
    for order in ([2, 0, 1], [1, 2, 0], [0, 0, 2, 1, 1]):
        assert Tokenizer.union([parts[i] for i in order]).to_json() == union.to_json()
    # What is frequent in one is in front: no word is further back than all that can precede it.
    for part in parts:
        for place, word in enumerate(words(part)):
            assert words(union).index(word) <= len(parts) * (place + 1)
    assert Tokenizer.from_json(union.to_json()).to_json() == union.to_json()


def test_a_union_encodes_as_a_vocabulary_of_all_captions_would(rng):
    texts = [some_captions(rng, alphabet) for alphabet in ("abcÉ", "bcdé")]
    union = Tokenizer.union([Tokenizer.train(captions) for captions in texts])
    whole = Tokenizer.train(texts[0] + texts[1])
    captions = [*texts[0], *texts[1], "AB, ab-cd?", "unheard of", ""]
    ours, theirs = union.encode(captions, 12), whole.encode(captions, 12)
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert [union.pieces(row.tolist()) for row in ours[0]] == [
        whole.pieces(row.tolist()) for row in theirs[0]
    ]
    assert union.unknown_words("unheard ab") == whole.unknown_words("unheard ab")


def test_a_union_of_one_is_that_one(rng, source):
    for alone in (source.tokenizer, Tokenizer.train(some_captions(rng, "abc"))):
        assert Tokenizer.union([alone]).to_json() == alone.to_json()
        assert Tokenizer.union([alone, alone]).to_json() == alone.to_json()


def test_a_union_too_large_loses_the_rarest_of_each(rng):
    parts = [Tokenizer.train(some_captions(rng, alphabet)) for alphabet in ("abcd", "wxyz")]
    small = Tokenizer.union(parts, vocab_size=13)
    assert small.vocab_size == 13
    assert words(small) == words(Tokenizer.union(parts))[:13]
    assert all(set(words(part)[:8]) <= set(words(small)) for part in parts)


def test_caches_are_asked_of_every_source(config):
    mixed = open_split(config.data, "train")
    assert mixed.with_caches({}) == mixed
    with pytest.raises(UserError, match="There is no cache of text in .*plain_64px"):
        mixed.with_caches({"text": "0123"})
