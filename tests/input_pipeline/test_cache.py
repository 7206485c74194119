"""Cached outputs equal those of the networks on the batches of training."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniature import RECOLORINGS, SIZE
from photo_trees import random_photo, save
from safetensors.numpy import save_file
from test_tokenizer import write_folder
from written import TEXT, VAE, random_trees, tensors, write

from input_pipeline import cache
from input_pipeline.cache import build_caches, open_checkpoint
from input_pipeline.cached import cache_folder
from input_pipeline.loader import train_iterator
from input_pipeline.mixture import Mixture
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from input_pipeline.records import RecordSource
from ragaf_jax.caches import cached_kinds
from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipText
from ragaf_jax.nets.vae import Vae
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.fingerprint import latents_key, text_key
from ragaf_jax.weights.modules import load_network

BUDGET = {"max_regions": 33, "max_edges": 192}
# One step of bfloat16's eight bits, and what the order of sums makes of float32.
ROUNDING = {"rtol": 2**-8, "atol": 1e-4}


@pytest.fixture(scope="module")
def trees():
    """Networks of a size that neither explodes nor vanishes."""
    random = random_trees(np.random.default_rng(int(os.environ["RAGAF_TEST_SEED"])))
    return jax.tree.map(lambda x: x * max(1, np.prod(x.shape[:-1])) ** -0.5, random)


@pytest.fixture(scope="module")
def checkpoint(trees, tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("weights") / "sd", trees)
    write_folder(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return Tokenizer.from_pretrained(checkpoint / "tokenizer")


@pytest.fixture(scope="module")
def keys(trees, tokenizer):
    return {
        "latents": latents_key(trees["vae"], VAE),
        "text": text_key(trees["text_encoder"], TEXT, 0, tokenizer.to_json()),
    }


@pytest.fixture(scope="module")
def cached_dir(data_dir, checkpoint, tmp_path_factory):
    """A copy of the miniature data with caches."""
    folder = tmp_path_factory.mktemp("cached") / "data"
    shutil.copytree(data_dir, folder)
    for name in ("openmoji/plain", "openmoji/recolor"):
        build_caches(opened(folder, name), ("latents", "text"), open_checkpoint(str(checkpoint)))
    return folder


@pytest.fixture
def bare(data_dir, tmp_path):
    """Records without caches."""
    shutil.copytree(data_dir, tmp_path / "data")
    return opened(tmp_path / "data", "openmoji/plain")


def opened(folder, name="openmoji/recolor"):
    return RecordSource(folder, name, "train", Options(SIZE, RECOLORINGS))


@pytest.fixture(scope="module")
def bucketed(checkpoint, tmp_path_factory):
    """Cached photos of two sizes, in white margins."""
    folder, rng = tmp_path_factory.mktemp("bucketed"), np.random.default_rng(0)
    for i in range(10):
        save(random_photo(rng, 60, 80 if i % 2 else 64), folder / "root" / f"{i}.png")
        side = "on the left" if i % 2 else "left in the rain"
        (folder / "root" / f"{i}.txt").write_text(f"a photo of {i} {side}")
    options = Options(32, root=folder / "root", buckets=((32, 32), (24, 40)))
    prepare("folder", folder, options)
    source = RecordSource(folder, "folder", "train", options, "captions")
    build_caches(source, ("latents", "text"), open_checkpoint(str(checkpoint)))
    return source


@pytest.fixture(scope="module")
def encode(trees):
    return jax.jit(lambda x: Vae(VAE).apply({"params": trees["vae"]}, x, method="encode"))


@pytest.fixture(scope="module")
def read(trees):
    return jax.jit(lambda x: ClipText(TEXT).apply({"params": trees["text_encoder"]}, x))


@pytest.mark.parametrize("dataset", ["openmoji/plain", "openmoji/recolor", "mixture", "buckets"])
def test_batches_bring_what_the_networks_would_say_of_them(
    rng, cached_dir, bucketed, dataset, tokenizer, encode, read, keys
):
    """The same seed gives the same examples with and without caches, also mirrored ones."""
    if dataset == "buckets":
        source = bucketed
    else:
        source = opened(cached_dir) if dataset == "mixture" else opened(cached_dir, dataset)
    source.tokenizer = tokenizer
    if dataset == "mixture":
        source = Mixture((source, opened(cached_dir, "openmoji/plain")), (3.0, 1.0), tokenizer)
    seed = int(rng.integers(2**31))
    shapes = BUDGET | {"text_length": TEXT.max_position_embeddings}
    plain = train_iterator(source, 4, seed, **shapes)
    fast = train_iterator(source.with_caches(keys), 4, seed, **shapes)
    seen = set()
    for step in range(64):  # all sizes are among as many batches
        if step >= 3 * len(source) // 4 and seen == set(source.sizes):
            break
        batch, cached = next(plain), next(fast)
        assert cached.image is None and batch.latent_mean is None and batch.text.states is None
        np.testing.assert_array_equal(cached.sketch, batch.sketch)
        np.testing.assert_array_equal(cached.text.tokens, batch.text.tokens)
        mean, log_variance = (np.float64(x) for x in encode(batch.image))
        scale = VAE.scaling_factor
        for found, expected in (
            (cached.latent_mean, mean * scale),
            (cached.latent_std, np.exp(log_variance / 2) * scale),
            (cached.text.states, np.float64(read(batch.text.tokens))),
        ):
            assert found.dtype == jnp.bfloat16
            np.testing.assert_allclose(found.astype(float), expected, **ROUNDING)
        # The mirror image of a latent is not that of the mirror image: it would be told apart.
        other = np.float64(encode(batch.image[:, :, ::-1])[0])[:, :, ::-1]
        assert np.abs(other - mean).max() > 0.1 * mean.std()
        seen.add(batch.image.shape[1:3])
    assert len(seen) == (2 if dataset == "buckets" else 1)


@pytest.mark.parametrize("name", ["openmoji/plain", "openmoji/recolor"])
def test_a_caption_is_stored_once(cached_dir, keys, name):
    source = opened(cached_dir, name)
    folder = cache_folder(source.folder, "text", keys["text"])
    states = np.load(folder / "train.npy", mmap_mode="r")
    captions = {
        caption
        for record in map(source.__getitem__, range(len(source)))
        for caption in record["captions"]
    }
    assert len(captions) <= len(states) <= 2 * len(captions)
    assert states.shape[1:] == (TEXT.max_position_embeddings, TEXT.hidden_size)
    latents = np.load(cache_folder(source.folder, "latents", keys["latents"]) / "train.npy")
    assert latents.shape == (len(source), 2, SIZE // 8, SIZE // 8, 2 * VAE.latent_channels)


def test_one_cache_without_the_other(rng, cached_dir, keys):
    source = opened(cached_dir)
    shapes = BUDGET | {"text_length": 40}
    seed = int(rng.integers(2**31))
    latents = next(
        train_iterator(source.with_caches({"latents": keys["latents"]}), 2, seed, **shapes)
    )
    text = next(train_iterator(source.with_caches({"text": keys["text"]}), 2, seed, **shapes))
    assert latents.image is None and latents.text.states is None
    assert text.latent_mean is None and text.image.shape == (2, SIZE, SIZE, 3)
    assert source.with_caches({}) is source


def test_what_is_there_is_kept(cached_dir, checkpoint, keys, monkeypatch):
    monkeypatch.setattr(cache, "_write", lambda *_: pytest.fail("computed again"))
    source = opened(cached_dir)
    folders = build_caches(source, ("text", "latents"), open_checkpoint(str(checkpoint)))
    assert folders == [cache_folder(source.folder, k, keys[k]) for k in ("text", "latents")]


def test_other_weights_are_refused(cached_dir, bare, keys):
    source = opened(cached_dir)
    for kind, key in keys.items():
        said = (
            rf"The cache of {kind} in \S+cache was made with other weights \(key {key}\) than this "
            rf"run's \(key 0123\); run: python -m input_pipeline.prepare .*--cache={kind} --"
        )
        with pytest.raises(UserError, match=said):
            source.with_caches({kind: "0123"})
        with pytest.raises(
            UserError, match=rf"There is no cache of {kind} in \S+ \(key {key}\); run"
        ):
            bare.with_caches({kind: key})


def test_a_cache_is_prepared_if_it_is_of_these_weights(cached_dir, bare, keys):
    source = opened(cached_dir)
    assert source.prepared_caches(keys) == ("latents", "text")
    assert source.prepared_caches(keys | {"latents": "0123"}) == ("text",)
    assert source.prepared_caches({}) == bare.prepared_caches(keys) == ()
    parts = (source, opened(cached_dir, "openmoji/plain"))
    assert Mixture(parts, (1, 2), source.tokenizer).prepared_caches(keys) == ("latents", "text")
    assert Mixture((source, bare), (1, 2), source.tokenizer).prepared_caches(keys) == ()


def test_another_clip_skip_is_another_cache(bare, checkpoint, trees, tokenizer):
    (folder,) = build_caches(bare, ("text",), open_checkpoint(str(checkpoint)), clip_skip=1)
    key = text_key(trees["text_encoder"], TEXT, 1, tokenizer.to_json())
    assert folder.name == f"text-{key}"
    caption = bare[0]["captions"][0]
    states, _ = bare.with_caches({"text": key})[0]["text_states"][caption]
    tokens = tokenizer.encode([caption], TEXT.max_position_embeddings)[0]
    network = ClipText(TEXT, 1)
    expected = network.apply({"params": trees["text_encoder"]}, jnp.asarray(tokens))[0]
    np.testing.assert_allclose(states.astype(float), np.float64(expected), **ROUNDING)
    with pytest.raises(UserError, match="--clip_skip is 2; the text encoder has 2 layers"):
        build_caches(bare, ("text",), open_checkpoint(str(checkpoint)), clip_skip=2)


def test_an_interrupted_cache_leaves_nothing(bare, checkpoint, keys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_padded", interrupted)
        for kind in keys:
            with pytest.raises(KeyboardInterrupt):
                build_caches(bare, (kind,), open_checkpoint(str(checkpoint)))
    assert list((bare.folder / "cache").iterdir()) == []
    # A process that was killed could not clean up.
    for kind, key in keys.items():
        killed = bare.folder / "cache" / f"incomplete.{kind}-{key}"
        killed.mkdir()
        (killed / "leftover").touch()
        with pytest.raises(UserError, match="There is no cache"):
            bare.with_caches({kind: key})
    build_caches(bare, ("latents", "text"), open_checkpoint(str(checkpoint)))
    files = {path.name for path in (bare.folder / "cache").rglob("*")}
    folders = {f"{kind}-{key}" for kind, key in keys.items()}
    assert files == {"train.npy", "train.json", "records", *folders}
    bare.with_caches(keys)


@pytest.mark.parametrize("kind", ["latents", "text"])
def test_a_damaged_cache(cached_dir, tmp_path, keys, kind):
    shutil.copytree(cached_dir, tmp_path / "data")
    source = opened(tmp_path / "data")
    path = cache_folder(source.folder, kind, keys[kind]) / "train.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=rf"The cache \S+{kind}-\w+ cannot be read .*; delete it"):
        source.with_caches(keys)


def test_the_cache_of_other_records(cached_dir, tmp_path, keys):
    shutil.copytree(cached_dir, tmp_path / "data")
    source = opened(tmp_path / "data")
    path = cache_folder(source.folder, "latents", keys["latents"]) / "train.npy"
    np.save(path, np.load(path)[1:])
    with pytest.raises(UserError, match=rf"{len(source) - 1} images of {len(source)}"):
        source.with_caches(keys)


def test_a_cache_of_records_that_were_replaced_is_not_used(cached_dir, tmp_path, keys, checkpoint):
    """A cache's folder can remain when other images are prepared beside it."""
    shutil.copytree(cached_dir, tmp_path / "data")
    source = opened(tmp_path / "data", "openmoji/plain")
    (source.folder / "sources.jsonl").write_text("other")
    assert source.prepared_caches(keys) == ()
    for kind, key in keys.items():
        with pytest.raises(UserError, match=rf"{kind}-\w+ was computed from other records than .*"):
            source.with_caches({kind: key})
    (folder,) = build_caches(source, ("text",), open_checkpoint(str(checkpoint)))
    assert source.prepared_caches(keys) == ("text",)
    (folder / "records").unlink()  # as older versions left it
    assert source.prepared_caches(keys) == ("text",)


def test_cached_text_has_just_the_captions_of_training_and_older_ones_are_refused(
    bucketed, keys, tmp_path
):
    folder = cache_folder(bucketed.folder, "text", keys["text"])
    captions = json.loads((folder / "train.json").read_text())
    originals = {
        record["captions"][0] for record in map(bucketed.__getitem__, range(len(bucketed)))
    }
    mirrored = {text.replace("on the left", "on the right") for text in originals}
    assert len(captions) == len(set(captions)) and set(captions) == originals | mirrored
    assert originals != mirrored

    shutil.copytree(bucketed.folder.parents[2], tmp_path / "data")
    options = Options(32, buckets=((32, 32), (24, 40)))
    sources = {
        mirror: RecordSource(tmp_path / "data", "folder", "train", options, mirror)
        for mirror in ("own", "captions")
    }
    path = cache_folder(sources["own"].folder, "text", keys["text"]) / "train.json"
    # As older versions wrote it.
    path.write_text(json.dumps([text.replace("on the right", "on its right") for text in captions]))
    assert sources["own"].prepared_caches(keys) == ("latents", "text")
    assert sources["captions"].prepared_caches(keys) == ("latents",)
    sources["own"].with_caches(keys)
    said = r"lacks mirrored captions, and config\.data\.mirror requires them; delete it and run: "
    with pytest.raises(UserError, match=said):
        sources["captions"].with_caches(keys)


def test_what_can_be_cached():
    assert cached_kinds("", "--cache") == ()
    assert cached_kinds("text, latents,text", "--cache") == ("text", "latents")
    with pytest.raises(UserError, match="--cache is 'text,vae', and 'vae' cannot be cached; give"):
        cached_kinds("text,vae", "--cache")


def test_latents_of_another_vae_are_another_cache(rng, cached_dir, checkpoint, tmp_path):
    """A run with `init.vae` refuses the cache of the checkpoint's own."""
    other, place = random_trees(rng), tmp_path / "vae.safetensors"
    save_file(tensors(other, "vae"), place)
    vae = open_checkpoint(str(checkpoint), vae=str(place)).vae
    key = latents_key(load_network(vae)[1], vae.config)
    assert key == latents_key(other["vae"], VAE)
    said = rf"was made with other weights .* than this run's \(key {key}\); run: .*--vae="
    with pytest.raises(UserError, match=said):
        opened(cached_dir).with_caches({"latents": key})


def test_a_checkpoint_is_named():
    with pytest.raises(UserError, match="--cache is given and --checkpoint is empty"):
        open_checkpoint("")


def test_records_without_some_images(bare):
    for left_out in (("image",), ("sketch", "labels", "true_labels"), ("labels", "image")):
        whole, part = bare[1], bare.without(*left_out)[1]
        assert set(whole) - set(part) == set(left_out)
        for name, value in part.items():
            np.testing.assert_array_equal(value, whole[name])
