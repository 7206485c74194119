"""What a configuration needs, told from shapes: against counts by hand and the compiler's own."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from fakes import as_sdxl, random_batch, smallest_config, tiny_config
from published import TEXT, TEXT2_XL, UNET_XL

from configs import stage1
from ragaf_jax.errors import UserError
from ragaf_jax.nets.blocks import REMAT
from ragaf_jax.nets.build import build_model, text_config_of
from ragaf_jax.nets.model import Model, traced_init
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.planning import plan as plans
from ragaf_jax.planning.compiled import Account
from ragaf_jax.planning.plan import (
    GIB,
    Plan,
    Setting,
    cacheable,
    cheapest,
    configured,
    flops_of,
    plan,
    search,
    settings,
)
from ragaf_jax.planning.shapes import batch_shapes, by_bucket, with_known_sizes
from ragaf_jax.planning.table import table
from ragaf_jax.runtime.flops import matmul_flops
from ragaf_jax.runtime.targets import Target
from ragaf_jax.training.config_checks import check_config
from ragaf_jax.weights.configs.networks import (
    projected_text_config,
    text_config,
    unet_config,
)


def test_flops_are_those_of_the_products(rng):
    m, k, n, times = (int(x) for x in rng.integers(2, 9, 4))
    a, b = jnp.ones((m, k)), jnp.ones((k, n))

    def repeated(a, b):
        return jax.lax.scan(lambda total, _: (total + a @ b, None), jnp.zeros((m, n)), None, times)

    assert matmul_flops(jnp.matmul, a, b) == 2 * m * k * n
    assert matmul_flops(repeated, a, b) == times * 2 * m * k * n
    gradient = jax.grad(lambda a, b: jnp.sin(a @ b).sum(), (0, 1))
    assert matmul_flops(gradient, a, b) == 3 * 2 * m * k * n
    again = jax.grad(jax.checkpoint(lambda a, b: jnp.sin(jnp.sin(a @ b) @ b.T).sum()))
    assert matmul_flops(again, a, b) > matmul_flops(
        jax.grad(lambda a, b: jnp.sin(jnp.sin(a @ b) @ b.T).sum()), a, b
    )


def test_flops_of_a_convolution_are_xlas(rng):
    side, wide, out = (int(x) for x in rng.integers(5, 9, 3))
    x, kernel = jnp.ones((2, side, side, wide)), jnp.ones((3, 3, wide, out))

    def convolve(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", None, None, dimensions)

    expected = jax.jit(convolve).lower(x, kernel).cost_analysis()["flops"]
    assert matmul_flops(convolve, x, kernel) == expected


@pytest.mark.parametrize("stage", [1, 2])
def test_batch_shapes_are_those_of_batches(rng, stage):
    config = tiny_config(stage)
    size = config.train.batch_size + config.train.read_examples
    batch = random_batch(rng, config, size)
    shapes = batch_shapes(config, build_model(config))
    assert jax.tree.structure(shapes) == jax.tree.structure(batch)
    for ours, theirs in zip(*map(jax.tree.leaves, (shapes, batch)), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_sizes_without_weights_are_stable_diffusions():
    config, notice = with_known_sizes(stage1.get_config("openmoji_sd"))
    assert "is not on this machine: the sizes are those of Stable Diffusion 1.5" in notice
    shapes = build_model(config).shapes()
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    # As published: 860 M, a ControlNet of 361 M, CLIP ViT-L/14's 123 M, and an autoencoder of 84 M.
    assert counts == {
        "unet": 859_520_964,
        "control": 361_279_120,
        "text_encoder": 123_060_480,
        "autoencoder": 83_653_863,
    }
    xl, notice = with_known_sizes(stage1.get_config("openmoji_sdxl"))
    assert "is not on this machine: the sizes are those of SDXL's base model" in notice
    config = xl.model.unet.to_dict()
    assert UNetConfig(**config) == dataclasses.replace(unet_config(UNET_XL, "x"), sample_size=64)
    second = projected_text_config(TEXT2_XL, "x")
    assert text_config_of(xl) == SdxlTextConfig(text_config(TEXT, "x"), second)
    same, nothing = with_known_sizes(tiny_config(1))
    assert nothing == "" and same == tiny_config(1)


def test_all_settings_are_considered_once():
    config = tiny_config(2)  # four examples are denoised, two only read
    found = settings(config, ("", "text"))
    assert len(found) == len(set(found)) == len(REMAT) * 2 * 2
    assert {x.remat for x in found} == set(REMAT)
    assert {x.accumulation for x in found} == {1, 2}
    assert {x.cache for x in found} == {"", "text"}
    for setting in found:
        check_config(configured(config, setting))


def test_what_is_not_trained_can_be_cached():
    config = tiny_config(1)
    assert cacheable(config) == ()  # the text encoder trains, and Haar's latents cost nothing
    config.train.trainable, config.train.frozen = ("control/.*",), (".*",)
    assert cacheable(config) == ("text",)
    config.model.autoencoder = "kl"
    config.model.conditioning_channels = (8, 8, 16, 16)
    assert cacheable(config) == ("latents", "text")
    config.data.tags.dropout = 0.1  # captions of no cache
    assert cacheable(config) == ("latents",)
    config.data.tags.dropout = 0.0
    config.model.lora.patterns = ("text_encoder/.*",)
    config.train.trainable = ("control/.*", "lora/.*")
    assert cacheable(config) == ("latents",)


def test_parts_change_nothing_of_the_products():
    config = smallest_config(1)
    whole = flops_of(config)
    assert flops_of(configured(config, Setting("none", 2, ""))) == whole
    assert flops_of(configured(config, Setting("full", 1, ""))) > whole
    xl = as_sdxl(config)
    assert flops_of(configured(xl, Setting("none", 1, "text"))) < flops_of(xl)


def test_the_plan_of_a_small_model(monkeypatch):
    config = smallest_config(1)
    config.train.trainable, config.train.frozen = ("control/.*",), (".*",)
    init, keys = Model.init, []
    monkeypatch.setattr(Model, "init", lambda self, key: keys.append(key) or init(self, key))
    traced_init.clear_cache()
    (only,) = plan(config)
    assert keys and all(isinstance(key, jax.core.Tracer) for key in keys)  # shapes, no numbers
    shapes = build_model(config).shapes()
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    assert only.trainable == counts.pop("control")
    assert only.frozen == sum(counts.values())
    # Parameters, average and two moments in float32, what is frozen, and the batch.
    parameters = 16 * only.trainable + 4 * only.frozen
    assert parameters < only.account.argument_bytes < parameters + 200_000
    assert only.account.argument_bytes < only.account.peak_bytes
    text = table([only])
    assert "none" in text and "No budget was given" in text
    assert "No setting fits" in table([only], only.account.argument_bytes / 2 / GIB)


def made(remat, accumulation, flops, peak):
    needs = Account(10, peak * GIB, 1.0)
    return Plan(Setting(remat, accumulation, ""), 1, 1, flops, None, needs)


def test_the_search_tries_the_cheapest_first_and_stops_where_one_fits(monkeypatch):
    needs = {"none": 8, "attention": 6, "blocks": 4, "full": 2}
    flops = {"none": 1.0, "attention": 2.0, "blocks": 3.0, "full": 4.0}
    tried = []

    def compiled(config, setting, flops_given=None, target=None):
        tried.append(setting)
        gib = needs[setting.remat] / setting.accumulation + 1
        return made(setting.remat, setting.accumulation, flops[setting.remat], gib)

    monkeypatch.setattr(plans, "compiled_plan", compiled)
    monkeypatch.setattr(plans, "REMAT", needs)
    monkeypatch.setattr(plans, "flops_of", lambda config: flops[config.model.remat])
    config = tiny_config(1)
    config.model.remat = "full"
    found = plan(config, 2.6)
    # 1 + 8/4, 1 + 6/4: the second is the first in order of cost that fits.
    assert [x[:2] for x in tried] == [
        ("full", 1),
        ("none", 1),
        ("none", 2),
        ("none", 4),
        ("attention", 1),
        ("attention", 2),
        ("attention", 4),
    ]
    assert cheapest(found, 2.6) == found[-1]
    lines = table(found, 2.6)
    assert re.search("^attention +4 +none ", lines, re.M)
    assert "--config.model.remat=attention --config.train.accumulation=4" in lines


def test_of_equal_settings_the_own_is_kept(monkeypatch):
    monkeypatch.setattr(plans, "flops_of", lambda config: 1.0)
    monkeypatch.setattr(
        plans, "compiled_plan", lambda config, setting, flops, target: made(*setting[:2], flops, 1)
    )
    config = tiny_config(1)
    for config.model.remat in REMAT:
        (found,) = search(config, settings(config, ("",)), 2.0 * GIB)
        assert found.setting == (config.model.remat, 1, "")


def test_a_search_ends_where_the_state_alone_does_not_fit(monkeypatch):
    monkeypatch.setattr(plans, "flops_of", lambda config: 1.0)
    monkeypatch.setattr(
        plans, "compiled_plan", lambda config, setting, flops, target: made(*setting[:2], flops, 1)
    )
    config = tiny_config(1)
    # Ten bytes of state; and three numbers of parts.
    assert len(search(config, settings(config, ("",)), 11.0)) == 3 * len(REMAT)
    assert len(search(config, settings(config, ("",)), 9.0)) == 1


BUCKETS = ("16x16", "24x12", "12x20")  # the second has the most pixels, then the first


def test_each_bucket_has_its_batch():
    config = tiny_config(2)
    config.data.buckets = BUCKETS
    shapes = [
        batch_shapes(part, build_model(config)).sketch.shape[1:3] for part in by_bucket(config)
    ]
    assert shapes == [(12, 24), (16, 16), (20, 12)]
    assert batch_shapes(config, build_model(config)).labels.shape[1:] == (12, 24)
    config.data.buckets = ()
    assert by_bucket(config) == [config]


def test_a_setting_fits_if_every_bucket_does(monkeypatch):
    needs = {"none": (8, 9, 7), "attention": (4, 5, 4), "blocks": (3, 3, 3)}
    tried = []

    def compiled(config, setting, flops, target):
        (bucket,) = config.data.buckets
        tried.append((setting.remat, bucket))
        peak = needs[setting.remat][("24x12", "16x16", "12x20").index(bucket)]
        return made(setting.remat, 1, flops or 1.0, peak)._replace(bucket=bucket)

    monkeypatch.setattr(plans, "compiled_plan", compiled)
    monkeypatch.setattr(plans, "REMAT", needs)
    monkeypatch.setattr(plans, "flops_of", lambda config: -needs[config.model.remat][0])
    config = tiny_config(1)
    config.data.buckets, config.train.batch_size = BUCKETS, 1
    # Those of the configuration are all compiled, others up to the first that does not fit.
    found = plan(config, 4.5)
    order = "24x12", "16x16", "12x20"
    assert tried == [
        *(("none", bucket) for bucket in order),
        ("attention", "24x12"),
        ("attention", "16x16"),
        *(("blocks", bucket) for bucket in order),
    ]
    chosen = cheapest(found, 4.5)
    assert chosen is not None and chosen.setting.remat == "blocks"
    assert cheapest(found, 5.5).account.peak_bytes == 5 * GIB  # of the bucket that needs most
    lines = table(found, 4.5)
    assert re.search("^size +remat +accumulation", lines, re.M)
    assert re.search("^24x12 +attention .* 4.00 +yes", lines, re.M)
    assert re.search("^16x16 +attention .* 5.00 +no", lines, re.M)
    assert "--config.model.remat=blocks" in lines and "highest peak" in lines
    assert "size" not in table([made("none", 1, 1.0, 1)])


def test_a_budget_is_more_than_nothing():
    with pytest.raises(UserError, match="memory budget is 0.0 GiB; give more than 0"):
        plan(tiny_config(1), 0.0)


def test_a_targets_own_memory_is_searched_only_where_the_configuration_does_not_fit(monkeypatch):
    target = Target("h200", "cuda", jax.devices()[:1], 6 * GIB, 1e12, {})
    peaks, tried = {"none": 7, "attention": 6, "blocks": 5, "full": 4}, []

    def compiled(config, setting, flops, target):
        tried.append(setting.remat)
        peak = peaks[setting.remat]
        return made(setting.remat, 1, 1.0, peak)._replace(device_bytes=target.usable_bytes)

    monkeypatch.setattr(plans, "compiled_plan", compiled)
    monkeypatch.setattr(plans, "REMAT", peaks)
    monkeypatch.setattr(plans, "flops_of", lambda config: -peaks[config.model.remat])
    config = tiny_config(1)
    config.train.batch_size = 1
    config.model.remat = "blocks"
    assert len(plan(config, None, target)) == 1 and tried == ["blocks"]
    config.model.remat = "none"
    found = plan(config, None, target)
    chosen = cheapest(found)
    assert chosen is not None and chosen.setting.remat == "attention"
    assert tried == ["blocks", "none", "attention"]
    # A budget is always searched, for what is cheaper than the configuration too.
    config.model.remat = "blocks"
    assert [x.setting.remat for x in plan(config, 6.5, target)] == ["blocks", "none", "attention"]
