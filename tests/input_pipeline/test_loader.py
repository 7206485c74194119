import json

import grain.python as grain
import jax
import numpy as np
import pytest
from fakes import tiny_config
from miniature import LIMIT, RECOLORINGS, SIZE

from input_pipeline import loader
from input_pipeline.loader import (
    DevicePrefetcher,
    distinct_groups,
    held_out_batch,
    train_iterator,
)
from input_pipeline.mirror import mirror_record
from input_pipeline.options import Options
from input_pipeline.records import RecordSource
from input_pipeline.transforms import ToExample, VaryTags
from ragaf_jax.batch import Batch, stacked
from ragaf_jax.nets.build import build_model
from ragaf_jax.palette import PALETTE
from ragaf_jax.planning.shapes import batch_shapes

BUDGET = {"text_length": 40, "max_regions": 33, "max_edges": 192}
RECORDS = LIMIT * RECOLORINGS


def same(a: Batch, b: Batch) -> bool:
    """Whether all arrays of two batches are equal to the last bit."""
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def pictures(*batches: Batch) -> list[bytes]:
    """The images in batches, sorted."""
    return sorted(image.tobytes() for batch in batches for image in batch.image)


@pytest.fixture
def seed(rng) -> int:
    return int(rng.integers(1 << 31))


def test_batches_have_their_shapes(source, seed):
    batch = next(train_iterator(source, 3, seed, **BUDGET))
    assert batch.image.shape == batch.sketch.shape == (3, SIZE, SIZE, 3)
    assert batch.image.dtype == batch.sketch.dtype == np.float32
    assert batch.labels.shape == (3, SIZE, SIZE) and batch.labels.dtype == np.int32
    assert batch.text.tokens.shape == (3, 40) and batch.text.tokens.dtype == np.int32
    assert batch.text.mask.shape == (3, 40) and batch.text.mask.dtype == bool
    assert batch.graph.nodes.shape[:2] == (3, 33) and batch.graph.edges.shape[:2] == (3, 192)
    assert (batch.graph.n_node.sum(1) == 33).all() and batch.graph.globals is None
    # Plans compile steps for these shapes.
    config = tiny_config(1)
    config.data.update({"image_size": SIZE, **BUDGET})
    config.train.update({"batch_size": 3, "read_examples": 0})
    planned = batch_shapes(config, build_model(config))
    assert jax.tree.structure(planned) == jax.tree.structure(batch)
    for ours, theirs in zip(*map(jax.tree.leaves, (planned, batch)), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_a_batch_of_one(source, seed):
    batches = train_iterator(source, 1, seed, **BUDGET)
    for _ in range(RECORDS + 1):
        assert next(batches).image.shape == (1, SIZE, SIZE, 3)


def test_an_epoch_has_every_record_once_and_its_own_order(source, seed):
    batches = train_iterator(source, RECORDS, seed, **BUDGET)
    mirrored = {record.tobytes(): record[:, ::-1].tobytes() for record in _images(source)}
    orders = []
    for _ in range(4):
        images = [image.tobytes() for image in next(batches).image]
        orders.append([next(a for a, b in mirrored.items() if image in (a, b)) for image in images])
        assert sorted(orders[-1]) == sorted(mirrored)
    assert any(order != orders[0] for order in orders[1:])


def _images(source: RecordSource) -> list[np.ndarray]:
    return list(held_out_batch(source, range(len(source)), **BUDGET)[0].image)


def test_the_seed_decides(source, seed):
    a, b, c = (train_iterator(source, RECORDS, s, **BUDGET) for s in (seed, seed, seed + 1))
    first = next(a)
    assert same(first, next(b)) and not same(first, next(c))


class FlipThenCaption(grain.RandomMapTransform):
    """Of a version that chose captions after flips."""

    def random_map(self, record, rng):
        return mirror_record(record) if rng.random() < 0.5 else record


class CaptionLast(grain.RandomMapTransform):
    def __init__(self, tokenizer):
        self.to_example = ToExample(tokenizer, **BUDGET)

    def random_map(self, record, rng):
        chosen = record["captions"][int(rng.integers(len(record["captions"])))]
        return self.to_example.map(record | {"captions": [chosen]})


def test_examples_of_openmoji_are_those_of_earlier_versions(source, seed):
    """A run that is resumed after an update continues with the same batches."""
    records = loader._shuffled(source.without("true_labels"), seed, ())
    records = records.random_map(FlipThenCaption(), seed=loader._seed(seed, 3))
    examples = records.random_map(CaptionLast(source.tokenizer), seed=loader._seed(seed, 4))
    expected = examples.batch(5, batch_fn=stacked)
    tags = VaryTags(shuffle=False, dropout=0.0, keep=0)
    batches = train_iterator(source, 5, seed, **BUDGET, tags=tags)
    for index in range(4):
        assert same(next(batches), expected[index])


def test_tags_change_only_captions_and_each_epoch_anew(source, seed):
    """Also from a saved state."""
    tags = VaryTags(shuffle=True, dropout=0.3, keep=1)
    plain = train_iterator(source, RECORDS, seed, **BUDGET)
    varied, resumed = (train_iterator(source, RECORDS, seed, **BUDGET, tags=tags) for _ in range(2))
    first = next(plain), next(varied)
    resumed.set_state(json.loads(json.dumps(varied.get_state())))
    second = next(plain), next(varied)
    assert same(next(resumed), second[1])
    for one, two in (first, second):
        assert same(one._replace(text=two.text), two)
        assert (two.text.mask.sum(1) <= one.text.mask.sum(1)).all()
        assert not np.array_equal(one.text.tokens, two.text.tokens)


def test_a_saved_state_goes_on_with_the_same_batches(source, seed, rng):
    batches = train_iterator(source, 3, seed, **BUDGET)
    for _ in range(int(rng.integers(1, 6))):
        next(batches)
    state = json.dumps(batches.get_state())
    expected = [next(batches) for _ in range(4)]

    resumed = train_iterator(source, 3, seed, **BUDGET)
    next(resumed)
    resumed.set_state(json.loads(state))
    for batch in expected:
        assert same(next(resumed), batch)


def test_processes_share_out_what_one_would_read(source, seed):
    whole = train_iterator(source, 6, seed, **BUDGET)
    shares = [
        train_iterator(source, 2, seed, **BUDGET, process_index=i, process_count=3)
        for i in range(3)
    ]
    for _ in range(5):
        assert pictures(next(whole)) == pictures(*map(next, shares))


def test_processes_read_different_records(source, seed):
    shares = [
        train_iterator(source, RECORDS // 2, seed, **BUDGET, process_index=i, process_count=2)
        for i in range(2)
    ]
    first, second = (set(pictures(next(share))) for share in shares)
    assert len(first) == len(second) == RECORDS // 2 and not first & second


def test_the_prefetcher_reads_ahead_but_its_state_does_not(source, seed):
    put_count = 0

    def put(batch: Batch) -> Batch:
        nonlocal put_count
        put_count += 1
        return batch

    expected = train_iterator(source, 3, seed, **BUDGET)
    ahead = DevicePrefetcher(train_iterator(source, 3, seed, **BUDGET), put)
    assert ahead.get_state() == expected.get_state() and put_count == 0
    for _ in range(4):
        assert same(next(ahead), next(expected))
        assert ahead.get_state() == expected.get_state()
    assert put_count == 5

    state = ahead.get_state()
    following = [next(ahead) for _ in range(2)]
    ahead.set_state(state)  # what lay ready is thrown away
    assert ahead.get_state() == state
    for batch in following:
        assert same(next(ahead), batch)


def test_held_out_batches_are_the_records_as_they_lie(data_dir):
    source = RecordSource(data_dir, "openmoji/recolor", "test", Options(SIZE, RECOLORINGS))
    indices = distinct_groups(source, 3)
    assert len(indices) == 3
    batch, truth = held_out_batch(source, indices, **BUDGET)
    assert len({key.split("/")[0] for key in truth.keys}) == 3
    parts, judged = truth.true_colors.shape[1], 0
    for row, index in enumerate(indices):
        record = source[index]
        np.testing.assert_array_equal(truth.image_u8[row], record["image"])
        np.testing.assert_array_equal(truth.sketch_u8[row], record["sketch"][..., 0])
        np.testing.assert_array_equal(truth.true_labels[row], record["true_labels"])
        colors = np.full(parts, -1)
        colors[: len(record["true_colors"])] = record["true_colors"]
        np.testing.assert_array_equal(truth.true_colors[row], colors)
        assert truth.captions[row] == record["captions"][0]
        assert truth.keys[row] == record["key"]
        assert truth.regions_found[row] == record["regions_found"]
        for part, (begin, end) in enumerate(truth.true_phrases[row].tolist()):
            asked = truth.true_colors[row, part]
            if asked < 0:
                assert (begin, end) == (-1, -1)
            elif begin >= 0:
                assert f" {PALETTE[asked]} " in truth.captions[row][begin:end]
                judged += 1
        np.testing.assert_allclose(batch.image[row], record["image"] / 127.5 - 1.0, atol=1e-6)
    assert judged
    assert same(batch, held_out_batch(source, indices, **BUDGET)[0])


def test_there_are_no_more_distinct_drawings_than_drawings(source):
    assert len(distinct_groups(source, 1000)) == LIMIT


def test_the_keys_of_any_batch(source, seed, rng):
    """For each process, independent of the state of the iterator."""
    pictures_of = {source[i]["key"]: source[i]["image"] for i in range(len(source))}
    shares = [
        train_iterator(source, 3, seed, **BUDGET, process_index=i, process_count=2)
        for i in range(2)
    ]
    batches = [[next(share) for _ in range(RECORDS)] for share in shares]
    for index in rng.integers(0, RECORDS, 4).tolist():
        for share, read in zip(shares, batches, strict=True):
            keys = DevicePrefetcher(share, lambda batch: batch).keys(index)
            assert len(keys) == 3
            for key, image in zip(keys, read[index].image, strict=True):
                expected = pictures_of[key].astype(np.float32) / 127.5 - 1
                both = (expected, expected[:, ::-1])
                assert min(np.abs(image - x).max() for x in both) <= 1e-5
