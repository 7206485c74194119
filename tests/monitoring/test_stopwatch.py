import resource
import sys
import types

import jax
import pytest

from ragaf_jax.monitoring.stopwatch import WAITS, Stopwatch, peak_memory

SIZE = 64, 64


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self):
        return self.now


def test_a_window_is_split_into_what_was_waited_for(rng):
    clock = Clock()
    watch = Stopwatch(images=16, clock=clock)
    for _ in range(2):  # the second window knows nothing of the first
        spent = dict(zip((*WAITS, "other"), rng.uniform(0.1, 2.0, 4), strict=True))
        steps = int(rng.integers(2, 9))
        for part in WAITS:
            for share in (0.25, 0.75):
                with watch.waits(part):
                    clock.now += share * spent[part]
        clock.now += spent["other"]
        values = watch.read([SIZE] * steps)
        for part, seconds in spent.items():
            assert values[f"time/{part}"] == pytest.approx(seconds / steps)
        assert values["time/step"] == pytest.approx(sum(spent.values()) / steps)
        assert values["images_per_second"] == pytest.approx(16 * steps / sum(spent.values()))


def test_a_wait_that_fails_is_counted():
    clock = Clock()
    watch = Stopwatch(images=1, clock=clock)

    def ends():
        clock.now += 3.0
        raise StopIteration

    with pytest.raises(StopIteration), watch.waits("data"):
        ends()
    assert watch.read([SIZE] * 1)["time/data"] == pytest.approx(3.0)


def test_the_first_step_is_waited_for_although_jax_only_queues_it():
    """Its scalars arrive only when somebody waits for them, as a device's do."""
    clock = Clock()
    watch = Stopwatch(images=1, clock=clock)

    class Queued:
        def block_until_ready(self):
            clock.now += 3.0
            return self

    assert watch.first_step(SIZE, {"loss": Queued()}, lambda: 0.0) == {"time/first_step": 3.0}
    clock.now += 2.0
    values = watch.read([SIZE] * 2)
    assert values["time/step"] == 2.0 and values["time/compute"] == 0.0


@pytest.mark.parametrize("log_at_once", [False, True])
def test_the_first_step_is_timed_by_itself(rng, log_at_once):
    clock = Clock()
    watch = Stopwatch(images=16, clock=clock)
    clock.now += 7.0  # until the loop begins
    with watch.waits("data"):
        clock.now += 5.0
    first, later = rng.uniform(0.1, 90.0, 2)
    with watch.waits("compute"):
        clock.now += first
    assert watch.first_step(SIZE, None, lambda: 0.0) == {"time/first_step": pytest.approx(first)}
    if log_at_once:
        clock.now += 3.0  # this reading's, not the next one's
        assert watch.read([SIZE] * 1) == {}
    clock.now += later
    steps = int(rng.integers(1, 9))
    values = watch.read([SIZE] * (steps if log_at_once else steps + 1))
    assert values["time/step"] == pytest.approx(later / steps)
    assert values["images_per_second"] == pytest.approx(16 * steps / later)
    assert values["time/compute"] == values["time/data"] == 0
    clock.now += later
    assert watch.read([SIZE] * 2)["time/step"] == pytest.approx(later / 2)


def test_the_first_step_of_another_size_is_no_part_of_a_window():
    """It compiles; the steps before it are waited for, and only those after it are timed."""
    clock = Clock()
    watch = Stopwatch(images=16, clock=clock)

    class Queued:
        def block_until_ready(self):
            clock.now += 3.0
            return self

    watch.first_step(SIZE, None, lambda: 0.0)
    clock.now += 2.0  # a step
    watch.restart([Queued()])
    with watch.waits("compute"):
        clock.now += 40.0
    wide = 48, 80
    assert watch.first_step(wide, None, lambda: 0.0, 3) == {"time/first_step": 40.0}
    clock.now += 5.0
    values = watch.read([SIZE, SIZE, wide, wide])
    assert values["time/step"] == 5.0 and values["time/compute"] == 0.0
    assert values["images_per_second"] == 16 / 5


def test_mfu_is_the_share_of_the_peak(monkeypatch):
    peak = 1e12 / jax.device_count()
    monkeypatch.setattr("ragaf_jax.monitoring.stopwatch.peak_flops", lambda kind, dtype: peak)
    clock = Clock()
    watch = Stopwatch(images=1, clock=clock)

    def flops():
        clock.now += 20.0  # counting them is no part of a window
        return 3e11

    watch.first_step(SIZE, None, flops)
    clock.now += 5.0
    assert watch.read([SIZE] * 11)["mfu"] == pytest.approx(0.6)
    # Larger images need more.
    watch.first_step((80, 80), None, lambda: 6e11)
    clock.now += 1.0
    assert watch.read([(80, 80), SIZE, (80, 80)])["mfu"] == pytest.approx(0.9)


def test_a_cpu_has_no_mfu_and_counts_no_flops():
    watch = Stopwatch(images=1)
    watch.first_step(SIZE, None, lambda: pytest.fail("counted"))
    assert "mfu" not in watch.read([SIZE] * 2)


def test_memory_is_that_of_the_process_or_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak * 2**30}

    assert peak_memory([Device(2), Device(3)]) == {"memory/device_gib": 3.0}
    for platform, bytes_per_unit in (("linux", 2**10), ("darwin", 1)):
        usage = types.SimpleNamespace(ru_maxrss=5 * 2**29 // bytes_per_unit)
        monkeypatch.setattr(resource, "getrusage", lambda who, usage=usage: usage)
        monkeypatch.setattr(sys, "platform", platform)
        assert peak_memory() == {"memory/process_gib": 2.5}
