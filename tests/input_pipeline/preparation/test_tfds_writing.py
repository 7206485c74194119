import pytest
from tensorflow_datasets.core import shuffle

from input_pipeline.preparation.tfds_writing import Bucket, correct_tfds


@pytest.fixture
def records(rng):
    return {f"key{i}": rng.bytes(int(rng.integers(1, 200))) for i in range(300)}


def shuffled(folder, records, memory, monkeypatch):
    correct_tfds()
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", memory)
    shuffler = shuffle.Shuffler(dirpath=folder, hash_salt="train")
    for key, data in records.items():
        shuffler.add(key, data)
    assert shuffler.size == sum(map(len, records.values()))
    return list(shuffler), sum(shuffler.bucket_lengths)


@pytest.mark.parametrize("memory", [0, 5000])
def test_files_give_the_order_that_memory_gives(tmp_path, records, memory, monkeypatch):
    in_memory, _ = shuffled(tmp_path / "memory", records, 1 << 30, monkeypatch)
    (tmp_path / "files").mkdir()
    in_files, count = shuffled(tmp_path / "files", records, memory, monkeypatch)
    assert in_files == in_memory and count == len(records)
    assert sorted(data for _, data in in_files) == sorted(records.values())
    assert list((tmp_path / "files").iterdir()) == []  # the buckets are gone


def test_a_key_that_comes_twice_is_noticed_in_files_too(tmp_path, records, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    correct_tfds()
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    shuffler = shuffle.Shuffler(dirpath=tmp_path, hash_salt="train")
    for key in [*records, next(iter(records))]:
        shuffler.add(key, records[key])
    with pytest.raises(shuffle.DuplicatedKeysError):
        list(shuffler)


def test_keys_of_128_bits_survive(tmp_path, rng):
    bucket = Bucket(tmp_path / "bucket")
    assert list(bucket.read_values()) == []
    keys = [int.from_bytes(rng.bytes(16), "big") for _ in range(20)] + [0, 2**128 - 1]
    data = [rng.bytes(int(n)) for n in rng.integers(0, 9, len(keys))]
    for pair in zip(keys, data, strict=True):
        bucket.add(*pair)
    assert list(bucket.read_values()) == list(zip(keys, data, strict=True))
    assert len(bucket) == len(keys) and bucket.size == sum(map(len, data))
    bucket.del_file()
    bucket.del_file()
    assert not (tmp_path / "bucket").exists()
