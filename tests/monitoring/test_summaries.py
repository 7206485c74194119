"""Several steps as one line of numbers."""

import numpy as np
import pytest

from ragaf_jax.monitoring.summaries import consecutive_skips, summarize


def step(rng, skipped=0.0, fused=True):
    by_time = rng.uniform(0.1, 1, (4, 4 if fused else 2))
    return {
        "loss": np.float32("nan") if skipped else np.float32(rng.uniform()),
        "skipped": np.float32(skipped),
        "by_time": np.full_like(by_time, np.nan) if skipped else by_time,
    }


def test_means_are_over_the_steps_that_were_not_skipped(rng):
    steps = [step(rng), step(rng, 1.0), step(rng)]
    found = summarize(steps, 1000)
    assert found["skipped"] == 1
    assert found["loss"] == pytest.approx((steps[0]["loss"] + steps[2]["loss"]) / 2)
    total = steps[0]["by_time"] + steps[2]["by_time"]
    for i, span in enumerate(("0-249", "250-499", "500-749", "750-999")):
        for column, name in enumerate(("loss_at", "fusion/sketch", "fusion/text"), 1):
            assert found[f"{name}/{span}"] == pytest.approx(total[i, column] / total[i, 0])
    assert len(found) == 2 + 12


def test_a_quarter_without_examples_is_left_out(rng):
    one = step(rng, fused=False)
    one["by_time"][2] = 0
    found = summarize([one], 10)
    assert set(found) == {"skipped", "loss", "loss_at/0-1", "loss_at/2-4", "loss_at/7-9"}


def test_nothing_but_skipped_steps(rng):
    assert summarize([step(rng, 1.0)] * 3, 1000) == {"skipped": 3}


def test_a_row_goes_on_from_what_came_before(rng):
    steps = [step(rng, s) for s in (1.0, 0.0, 1.0, 1.0)]
    assert consecutive_skips(steps, 4) == [5, 0, 1, 2]
