"""A fingerprint is that of the weights in bfloat16 and of all facts, and of nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from written import TEXT, VAE, random_trees

from ragaf_jax.weights.fingerprint import fingerprint, latents_key, text_key


def test_it_is_that_of_the_copy_in_bfloat16(trees):
    """Which is what a run keeps of frozen parameters; on the device or not."""
    key = fingerprint(trees["vae"], 1)
    assert len(key) == 16 and int(key, 16) >= 0
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), trees["vae"])
    assert fingerprint(rounded, 1) == key
    assert fingerprint(jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), trees["vae"]), 1) == key
    assert fingerprint(dict(reversed(trees["vae"].items())), 1) == key


def test_whatever_differs_shows(rng):
    tree = {"a": {"b": rng.standard_normal((2, 3))}, "c": rng.standard_normal(4)}
    changed = {"a": {"b": tree["a"]["b"] * 1.02}, "c": tree["c"]}
    reshaped = {"a": {"b": tree["a"]["b"].reshape(3, 2)}, "c": tree["c"]}
    renamed = {"a": {"d": tree["a"]["b"]}, "c": tree["c"]}
    keys = [fingerprint(each, 1, "x") for each in (tree, changed, reshaped, renamed)]
    keys += [fingerprint(tree), fingerprint(tree, 1), fingerprint(tree, 2, "x")]
    assert len(set(keys)) == len(keys)
    assert fingerprint(tree, (1, 2)) == fingerprint(tree, [1, 2])


def test_a_decoder_has_no_part_in_latents(trees, rng):
    key = latents_key(trees["vae"], VAE)
    other = random_trees(rng)["vae"]
    assert latents_key(trees["vae"] | {"decoder": other["decoder"]}, VAE) == key
    assert latents_key(trees["vae"] | {"quant_conv": other["quant_conv"]}, VAE) != key
    assert latents_key(trees["vae"] | {"encoder": other["encoder"]}, VAE) != key
    assert latents_key(trees["vae"], dataclasses.replace(VAE, sample_size=256)) == key
    for field in ({"scaling_factor": 0.13}, {"norm_num_groups": 2}):
        assert latents_key(trees["vae"], dataclasses.replace(VAE, **field)) != key


def test_text_depends_on_how_it_is_read(trees):
    key = text_key(trees["text_encoder"], TEXT, 0, "{}")
    assert text_key(trees["text_encoder"], TEXT, 0, "{}") == key
    others = [
        text_key(trees["text_encoder"], TEXT, 1, "{}"),
        text_key(trees["text_encoder"], TEXT, 0, '{"a": 1}'),
        text_key(
            trees["text_encoder"], dataclasses.replace(TEXT, max_position_embeddings=40), 0, "{}"
        ),
        text_key(trees["text_encoder"], dataclasses.replace(TEXT, hidden_act="gelu"), 0, "{}"),
    ]
    assert len({key, *others}) == 5


def test_float16_files_are_rounded_once(trees):
    halves = jax.tree.map(lambda x: x.astype(np.float16), trees["text_encoder"])
    wide = jax.tree.map(lambda x: x.astype(np.float32), halves)
    assert fingerprint(halves) == fingerprint(wide)
