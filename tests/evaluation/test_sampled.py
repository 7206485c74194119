"""Sampling for the evaluation: kept chunk by chunk, the same on one device and on many.

Devices are forced upon a CPU, which a process can do once: this file is also the script that does.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import random_batch, random_stage

from ragaf_jax.evaluation import sampled
from ragaf_jax.evaluation.sampled import CHUNK, sample_both

ROOT = Path(__file__).parents[2]
COUNT = CHUNK + 3


def made(rng, count=COUNT):
    """Two random stages, a configuration to sample them, and drawings."""
    one, two = (random_stage(number, int(rng.integers(99))) for number in (1, 2))
    config = two.config.copy_and_resolve_references()
    config.sample.steps = 2
    return config, one, two, random_batch(rng, config, count)


@pytest.fixture
def drawn(monkeypatch):
    """How many drawings are sampled, call by call; an entry of None interrupts that call."""
    calls, interrupted = [], []
    make_draw = sampled.make_draw

    def counting(*args):
        draw = make_draw(*args)

        def counted(*given):
            if len(calls) in interrupted:
                raise KeyboardInterrupt
            calls.append(len(given[2].tokens))
            return draw(*given)

        return counted

    monkeypatch.setattr(sampled, "make_draw", counting)
    return calls, interrupted


def test_what_was_interrupted_goes_on_and_samples_nothing_twice(rng, tmp_path, drawn):
    calls, interrupted = drawn
    asked = made(rng)
    whole = sample_both(*asked)
    assert calls == [CHUNK, CHUNK]
    calls.clear()
    interrupted.append(1)
    with pytest.raises(KeyboardInterrupt):
        sample_both(*asked, tmp_path)
    interrupted.clear()
    assert calls == [CHUNK]
    for _ in range(2):  # the second time, everything is there
        again = sample_both(*asked, tmp_path)
        assert calls == [CHUNK, CHUNK]
        for one, other in zip(again, whole, strict=True):
            np.testing.assert_array_equal(one, other)
    assert whole[0].shape == whole[1].shape == (COUNT, 16, 16, 3)


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
        (config, one, two, batch._replace(tokens=np.zeros_like(batch.tokens))),
    )
    for number, case in enumerate(cases):
        sample_both(*case, tmp_path)
        assert len(calls) == 2 + number
    sample_both(config, one, two, batch, tmp_path)
    assert len(calls) == 1 + len(cases)
    assert len(list(tmp_path.iterdir())) == 1 + len(cases)


@pytest.mark.parametrize("count", [3, COUNT])
def test_eight_devices_make_the_pictures_of_one(tmp_path, count):
    seed = int(os.environ["RAGAF_TEST_SEED"])
    file = tmp_path / "pictures.npz"
    done = subprocess.run(
        [sys.executable, __file__, str(file), str(seed), str(count)],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert done.stdout.splitlines()[-1] == "8 devices"
    here = sample_both(*made(np.random.default_rng(seed), count))
    with np.load(file) as there:
        for one, name in zip(here, ("stage1", "stage2"), strict=True):
            # Sums in another order may round a pixel the other way.
            off = np.abs(one.astype(int) - there[name].astype(int))
            assert off.max() <= 1 and (off > 0).mean() < 0.01


def main():
    """Samples on all devices, which the environment says how many they are."""
    import jax

    file, seed, count = sys.argv[1:]
    pictures = sample_both(*made(np.random.default_rng(int(seed)), int(count)))
    np.savez(file, stage1=pictures[0], stage2=pictures[1])
    print(f"{jax.device_count()} devices")


if __name__ == "__main__":
    main()
