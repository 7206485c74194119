"""Two evaluations side by side: known differences, and what cannot be compared."""

import json

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.examples import Values
from ragaf_jax.evaluation.statistics.comparison import compared, differences, read_evaluation
from ragaf_jax.evaluation.statistics.paired import paired_difference
from ragaf_jax.evaluation.statistics.summary import stored

KEYS, SIZES = ("a", "b", "c", "d"), {"64x64": 4}


def values_of(values, drawing=(0, 1, 2, 3), item=None):
    item = np.zeros(len(drawing), np.int64) if item is None else np.array(item)
    return Values(np.array(values, np.float64), np.array(drawing), item)


def test_differences_are_paired_by_drawing_and_part():
    drawing, item = (0, 0, 1, 2), (1, 2, 1, 1)
    one = stored({"color_accuracy": values_of([1, 1, 0, 1], drawing, item)})
    order = [3, 1, 0, 2]  # the other run may have its parts in another order
    other = stored(
        {
            "color_accuracy": values_of(
                np.array([0, 1, 0, 0.5])[order],
                np.array(drawing)[order],
                np.array(item)[order],
            )
        }
    )
    (found,) = differences(one, other, KEYS).values()
    expected = paired_difference(
        [1.0, 1.0, 0.0, 1.0],
        [0.0, 1.0, 0.0, 0.5],
        ["a", "a", "b", "c"],
        rng=np.random.default_rng(0),
    )
    assert found.difference == pytest.approx(1.5 / 4)
    assert found == (*expected.interval, expected.p_value, 4)
    nothing = differences(one, one, KEYS)["color_accuracy"]
    assert nothing[:4] == (0.0, 0.0, 0.0, 1.0)


def test_only_what_both_have_is_compared():
    one = stored({"psnr": values_of([20, np.inf, 22, 23]), "ssim": values_of([1, 1, 1, 1])})
    other = stored({"psnr": values_of([19, 21, np.nan, 22]), "edge_f1": values_of([0, 0, 0, 0])})
    found = differences(one, other, KEYS)
    assert set(found) == {"psnr"}
    assert found["psnr"].examples == 2 and found["psnr"].difference == 1
    none = stored({"psnr": values_of([np.nan, 1, np.nan, np.inf])})
    assert differences(one, none, KEYS) == {}


def test_regions_of_other_graphs_are_no_pairs():
    one = stored({"attention_color": values_of([1, 1, 1, 1], item=(0, 1, 2, 3))})
    other = stored({"attention_color": values_of([0, 0, 0, 0], item=(0, 1, 2, 4))})
    assert differences(one, other, KEYS) == {}
    assert differences(one, one, KEYS)["attention_color"].examples == 4


def test_another_evaluation_is_told_by_stage():
    values = {"stage 1": stored({"ssim": values_of([1, 1, 1, 1])})}
    other = {
        "metrics": {"stage 1": "theirs"},
        "values": {"stage 1": stored({"ssim": values_of([0, 0.5, 0, 0.5])})},
    }
    found = compared(values, other, KEYS)
    assert found["metrics"] == {"stage 1": "theirs"}
    assert found["differences"]["stage 1"]["ssim"]["difference"] == 0.75


def test_what_cannot_be_compared_is_told_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no evaluation to compare with in .*No such file"):
        read_evaluation(tmp_path, KEYS, 0, 64, SIZES)
    file = tmp_path / "metrics.json"
    for text in ("{", "[]", '{"quality": {}}'):
        file.write_text(text)
        with pytest.raises(UserError, match="is not of an evaluation by this version"):
            read_evaluation(tmp_path, KEYS, 0, 64, SIZES)
    found = {"seed": 3, "image_size": 64, "values": {"keys": list(KEYS)}}
    file.write_text(json.dumps(found))
    assert read_evaluation(tmp_path, KEYS, 3, 64, SIZES) == found
    with pytest.raises(UserError, match="config.seed=3 and this one 0; compare runs with"):
        read_evaluation(tmp_path, KEYS, 0, 64, SIZES)
    with pytest.raises(UserError, match="this one 3, and 1 are in only one of them"):
        read_evaluation(tmp_path, KEYS[:3], 3, 64, SIZES)
    with pytest.raises(UserError, match="their order differs; compare runs with the same data"):
        read_evaluation(tmp_path, KEYS[::-1], 3, 64, SIZES)
    with pytest.raises(UserError, match="has images of 64 px and this one of 128; compare"):
        read_evaluation(tmp_path, KEYS, 3, 128, SIZES)
    wide = {"64x64": 3, "80x48": 1}
    with pytest.raises(
        UserError, match=r"other sizes \(4 of 64x64 px\) than this one \(3 of 64x64"
    ):
        read_evaluation(tmp_path, KEYS, 3, 64, wide)
    file.write_text(json.dumps(found | {"sizes": wide}))
    assert read_evaluation(tmp_path, KEYS, 3, 64, wide)["sizes"] == wide
