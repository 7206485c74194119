"""Sampling for the evaluation: kept chunk by chunk, the same on one device and on many.

Devices are forced upon a CPU, which a process can do once: this file is also the script that does.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import on_eight_devices
from fakes import SMALLEST, mixed, random_batch, random_stage

from ragaf_jax.evaluation import sampled
from ragaf_jax.evaluation.sampled import CHUNK, sample_both

COUNT = CHUNK + 3
# On eight devices: fewer drawings than devices, and a last chunk that begins earlier.
COUNTS = (3, COUNT)


def made(rng, count=COUNT):
    """Two random stages, a configuration to sample them, and drawings."""
    one, two = (random_stage(number, int(rng.integers(99)), **SMALLEST) for number in (1, 2))
    config = two.config.copy_and_resolve_references()
    config.sample.steps = 2
    return config, one, two, random_batch(rng, config, count)


@pytest.fixture
def drawn(monkeypatch):
    """A sampler that paints chunk, seed and sketch; the chunks that it was asked for, in order.

    The second list interrupts it: at how many chunks.
    """
    asked, interrupted = [], []

    def sampler(config, one, two):
        def sample(piece, chunk):
            if len(asked) in interrupted:
                raise KeyboardInterrupt
            asked.append(chunk)
            pages = (100 * piece.sketch).astype(np.uint8)
            return pages + np.uint8(chunk), pages + np.uint8(config.seed)

        return sample

    monkeypatch.setattr(sampled, "_sampler", sampler)
    return asked, interrupted


def test_chunks_are_sampled_with_different_noise(rng, monkeypatch):
    """One drawing in two chunks would otherwise give one image twice."""
    monkeypatch.setattr(sampled, "CHUNK", 1)
    config, one, two, batch = made(rng, 1)
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
    for images in sample_both(config, one, two, twice):
        assert images.shape[0] == 2 and np.any(images[0] != images[1])


def test_what_was_interrupted_goes_on_and_samples_nothing_twice(rng, tmp_path, drawn):
    calls, interrupted = drawn
    asked = made(rng)
    whole = sample_both(*asked)
    assert calls == [0, 1]
    calls.clear()
    interrupted.append(1)
    with pytest.raises(KeyboardInterrupt):
        sample_both(*asked, tmp_path)
    interrupted.clear()
    assert calls == [0]
    for _ in range(2):  # the second time, everything is there
        again = sample_both(*asked, tmp_path)
        assert calls == [0, 1]
        for one, other in zip(again, whole, strict=True):
            np.testing.assert_array_equal(one, other)
    assert whole[0].shape == whole[1].shape == (COUNT, 16, 16, 3)


def test_drawings_of_several_sizes_are_sampled_by_size_and_kept_in_order(rng, tmp_path, drawn):
    """Chunks are numbered over all sizes, so that none repeats the noise of another."""
    calls, _ = drawn
    config, one, two, batch = made(rng, CHUNK + 1)
    batch = mixed(batch, random_batch(rng, config, 2, (8, 24)))
    for _ in range(2):  # the second time, everything is there
        first, second = sample_both(config, one, two, batch, tmp_path)
        assert calls == [0, 1, 2]
        squares = [i for i in range(len(batch.sketch)) if i not in (1, 3)]
        numbers = dict.fromkeys((1, 3), 2) | {i: n // CHUNK for n, i in enumerate(squares)}
        for i, sketch in enumerate(batch.sketch):
            np.testing.assert_array_equal(first[i], np.uint8(100 * sketch) + numbers[i])
            np.testing.assert_array_equal(second[i], np.uint8(100 * sketch) + config.seed)
    other = batch._replace(sketch=batch.sketch.copy())
    other.sketch[1] = 1 - other.sketch[1]
    sample_both(config, one, two, other, tmp_path)
    assert calls == [0, 1, 2] * 2


def test_a_file_cut_off_is_sampled_again(rng, tmp_path, drawn):
    calls, _ = drawn
    asked = made(rng)
    whole = sample_both(*asked, tmp_path)
    files = sorted(tmp_path.glob("*/*.npz"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:40])
    files[1].write_bytes(b"")
    again = sample_both(*asked, tmp_path)
    assert len(calls) == 4
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_was_made_otherwise_is_not_taken(rng, tmp_path, drawn):
    calls, _ = drawn
    config, one, two, batch = made(rng, 2)
    sample_both(config, one, two, batch, tmp_path)

    def other(**changes):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        return changed

    params = {**two.params, "unet": {**two.params["unet"]}}
    name = next(iter(params["unet"]["conv_in"]))
    params["unet"]["conv_in"] = {
        **params["unet"]["conv_in"],
        name: params["unet"]["conv_in"][name] + 1,
    }
    cases = (
        (other(seed=config.seed + 1), one, two, batch),
        (other(**{"sample.guidance": 1.5}), one, two, batch),
        (config, one, dataclasses.replace(two, step=two.step + 1), batch),
        (config, one, dataclasses.replace(two, params=params), batch),
        (config, one, two, batch._replace(sketch=1 - batch.sketch)),
        (config, one, two, batch._replace(text=jax.tree.map(np.zeros_like, batch.text))),
    )
    for number, case in enumerate(cases):
        sample_both(*case, tmp_path)
        assert len(calls) == 2 + number
    sample_both(config, one, two, batch, tmp_path)
    assert len(calls) == 1 + len(cases)
    assert len(list(tmp_path.iterdir())) == 1 + len(cases)


@pytest.mark.processes
def test_eight_devices_make_the_pictures_of_one(tmp_path, seed):
    assert on_eight_devices(__file__, tmp_path, seed)[-1] == "8 devices"
    for count in COUNTS:
        here = sample_both(*made(np.random.default_rng(seed), count))
        with np.load(tmp_path / f"{count}.npz") as there:
            for one, name in zip(here, ("stage1", "stage2"), strict=True):
                assert one.shape == (count, 16, 16, 3)
                # Sums in another order may round a pixel the other way.
                off = np.abs(one.astype(int) - there[name].astype(int))
                assert off.max() <= 1 and (off > 0).mean() < 0.01


def main():
    """Samples on all devices, which the environment says how many they are."""
    import jax

    folder, seed = sys.argv[1:]
    for count in COUNTS:
        first, second = sample_both(*made(np.random.default_rng(int(seed)), count))
        np.savez(Path(folder) / f"{count}.npz", stage1=first, stage2=second)
    print(f"{jax.device_count()} devices")


if __name__ == "__main__":
    main()
