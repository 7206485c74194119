"""Numbers with intervals: means of what is defined, over drawings."""

import numpy as np
import pytest

from ragaf_jax.evaluation.examples import Values, per_example
from ragaf_jax.evaluation.statistics.bootstrap import bootstrap_interval
from ragaf_jax.evaluation.statistics.fusion_balance import RegionBalance, fusion_summary
from ragaf_jax.evaluation.statistics.summary import (
    as_json,
    by_example,
    estimate,
    estimates,
    responds,
    spread,
    stored,
)


def of_parts(values, drawings, chance=None):
    values = np.array(values, np.float64)
    return Values(values, np.array(drawings), np.arange(len(values)), chance)


def test_an_estimate_is_of_what_is_defined(rng):
    drawings = [0, 0, 1, 2, 2, 3, 3]
    values = rng.random(7)
    broken = values.copy()
    broken[[2, 4]] = np.nan, np.inf
    chance = rng.random(7)
    found = estimate(of_parts(broken, drawings, chance))
    kept = np.isfinite(broken)
    expected = bootstrap_interval(
        values[kept], np.array(drawings)[kept], rng=np.random.default_rng(0)
    )
    assert found[:3] == tuple(expected)
    assert (found.examples, found.left_out) == (5, 2)
    assert found.chance == pytest.approx(chance[kept].mean())
    assert estimate(of_parts([np.nan, np.inf], [0, 1])) is None


def test_a_metric_without_a_value_is_missing():
    undefined = per_example(np.full(3, np.nan))
    found, missing = estimates({"ssim": per_example(np.ones(3)), "line_distance": undefined})
    assert as_json(found) == {
        "ssim": {
            "value": 1.0,
            "low": 1.0,
            "high": 1.0,
            "examples": 3,
            "left_out": 0,
            "chance": None,
        }
    }
    assert missing["line_distance"].startswith(
        "line distance (Chamfer) is not computed: it is undefined"
    )


def test_values_are_stored_and_averaged_by_drawing():
    values = of_parts([0.5, 1.0, np.inf, 0.25], [0, 0, 1, 3])
    assert stored({"psnr": values}) == {
        "psnr": {"drawing": [0, 0, 1, 3], "item": [0, 1, 2, 3], "value": [0.5, 1.0, None, 0.25]}
    }
    np.testing.assert_array_equal(by_example(values, 4), [0.75, np.nan, np.nan, 0.25])


def test_gaps_are_between_losses_of_the_same_seed():
    losses = spread([{"true": 1.0, "shuffled_text": 1.3}, {"true": 2.0, "shuffled_text": 2.5}])
    assert losses["shuffled_text"]["gap"] == pytest.approx(0.4)
    assert losses["true"] == {"mean": 1.5, "spread": 1.0, "gap": 0.0}


@pytest.mark.parametrize(("gap", "heard"), [(0.5, True), (0.05, False)])
def test_listening_is_more_than_the_spread(gap, heard):
    losses = spread([{"true": x, "shuffled_graph": x + gap} for x in (1.0, 1.1, 0.9)])
    assert responds(losses["shuffled_graph"], losses["true"]) is heard


def test_fusion_is_told_of_drawn_regions_and_of_the_background(rng):
    alpha, background = rng.random((2, 5)), np.array([True, False, False, True, False])
    regions = RegionBalance(np.array([0, 0, 0, 1, 1]), background, alpha)
    found = fusion_summary(regions, (0.9, 0.1))
    assert found["levels"] == [0.9, 0.1]
    assert [found[kind]["regions"] for kind in ("all", "background", "drawn")] == [5, 2, 3]
    for level in range(2):
        mean, low, high = found["drawn"]["alpha"][level]
        assert mean == pytest.approx(alpha[level, ~background].mean())
        assert low <= mean <= high
    everywhere = regions._replace(background=np.zeros(5, bool))
    assert "background" not in fusion_summary(everywhere, (0.9, 0.1))
