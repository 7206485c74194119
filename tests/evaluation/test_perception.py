"""Metrics on pretrained networks: computed where weights are, and a sentence where they are not."""

from types import SimpleNamespace

import metric_weights
import numpy as np
import pytest
from framed import framed_halves
from safetensors.numpy import save_file

from input_pipeline.extraction.sketch import canny
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.examples import Examples, Features, Networks, features_of
from ragaf_jax.evaluation.perception import load_networks, notices
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.scoring import score

NONE = {"inception": "", "lpips_alex": "", "lpips_vgg": "", "clip": ""}
OF_NETWORKS = {name for name, metric in METRICS.items() if metric.weights}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, seed):
    """Random weights of every network, as their authors' files hold them; fields of the config."""
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("weights")
    files = {"inception": metric_weights.inception_params(rng)}
    for net in ("alex", "vgg"):
        files[f"lpips_{net}"] = {"features": metric_weights.lpips_params(rng, net)["features"]}
    for name, params in files.items():
        save_file(metric_weights.tensors(params), folder / f"{name}.safetensors")
    clip = metric_weights.write_clip(folder / "clip", metric_weights.clip_params(rng))
    return {name: str(folder / f"{name}.safetensors") for name in files} | {"clip": str(clip)}


def test_without_weights_every_metric_says_how_to_give_them():
    networks, missing = load_networks(NONE)
    assert networks == Networks() and set(missing) == OF_NETWORKS
    assert missing["kid"] == (
        "KID is not computed: config.metrics.inception is empty; give --config.metrics.inception="
        "<weights>, see docs/evaluation.md."
    )
    assert missing["clip_score"].startswith("CLIP score is not computed: config.metrics.clip is")


def test_weights_that_are_not_there_are_told_and_the_others_loaded(weights, tmp_path):
    networks, missing = load_networks(
        NONE | {"lpips_alex": weights["lpips_alex"], "inception": str(tmp_path / "none")}
    )
    assert networks.lpips_alex is not None and networks.inception is None
    assert set(missing) == OF_NETWORKS - {"lpips_alex"}
    assert missing["fid"].startswith(f"FID is not computed: there is no file '{tmp_path / 'none'}'")


def test_empty_fields_are_one_notice():
    fields = NONE | {"clip": "none"}
    missing = {name: f"{name} is not computed." for name in ("lpips_alex", "clip_score", "kid")}
    assert notices(fields, missing) == [
        "Not computed without weights (docs/evaluation.md): LPIPS (AlexNet), KID.",
        "clip_score is not computed.",
    ]


def test_all_networks_with_random_weights(rng, weights):
    networks, missing = load_networks(weights)
    assert not missing
    truth = framed_halves(rng, 5, 32)
    pictures = truth.image_u8.copy()
    pictures[1:] = rng.integers(0, 256, pictures[1:].shape)
    true = features_of(networks, truth.image_u8)
    scores, sets, missing = score(Examples(truth, pictures, canny, networks, true))
    assert not OF_NETWORKS & set(missing)
    assert OF_NETWORKS & set(scores) == {"lpips_alex", "lpips_vgg", "clip_score"}
    for name in ("lpips_alex", "lpips_vgg"):
        first, *others = scores[name].value
        assert first == pytest.approx(0, abs=1e-6) and min(others) > 1e-3
    assert 0 <= scores["clip_score"].value.min() <= scores["clip_score"].value.max() <= 100
    assert set(sets) == {"fid", "kid", "inception_score", "cmmd"}
    assert (
        sets["fid"].value > 1e-3 and sets["cmmd"].value > 0 and sets["inception_score"].value >= 1
    )
    for interval in sets.values():
        assert interval.low <= interval.high
    same = SimpleNamespace(features=true, true=true)
    assert METRICS["fid"].compute(same).value == pytest.approx(0, abs=1e-4)
    assert METRICS["cmmd"].compute(same).value == pytest.approx(0, abs=1e-8)


def test_pictures_too_small_or_too_few_cost_only_what_needs_more(rng, weights):
    networks, _ = load_networks(
        NONE | {name: weights[name] for name in ("lpips_alex", "lpips_vgg")}
    )
    truth = framed_halves(rng, 3, 24)
    scores, _, missing = score(Examples(truth, truth.image_u8, canny, networks))
    assert OF_NETWORKS & set(scores) == {"lpips_vgg"}
    assert missing["lpips_alex"].startswith("LPIPS (AlexNet) is not computed: The images are 24")
    features = Features(clip=rng.standard_normal((3, 8)).astype(np.float32))
    with pytest.raises(UserError, match=r"^the set has 3 example\(s\) .* the metric needs 4; eval"):
        METRICS["cmmd"].compute(SimpleNamespace(features=features, true=features))
