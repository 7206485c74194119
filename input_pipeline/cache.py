"""Computes outputs of frozen networks for all records: `prepare --cache=latents,text`.

This is the one file here that runs networks. The training step then runs neither the VAE's encoder
nor the text encoder; how a cache is laid out and read is in `input_pipeline.cached`.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import BFloat16, Float, Int
from tqdm import tqdm

from input_pipeline.cached import RECORDS_FILE, cache_folder, of_these_records, records_key
from input_pipeline.mirror import swap_sides
from input_pipeline.records import RecordSource
from input_pipeline.transforms import scaled
from ragaf_jax.errors import UserError
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.weights.fingerprint import latents_key, text_key
from ragaf_jax.weights.load import Tree
from ragaf_jax.weights.modules import load_network
from ragaf_jax.weights.pretrained import Pretrained, open_pretrained
from ragaf_jax.weights.vocabulary import tokenizer_of

# Only training reads caches: validation is rare, and runs the networks.
SPLIT = "train"
# At 512 px, four pictures and their mirror images a call.
_PIXELS, _MOST_PICTURES, _CAPTIONS = 2**21, 32, 64
# Grain reads hundreds of batches ahead unless told not to: gigabytes of pictures.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


def open_checkpoint(where: str, variant: str = "") -> Pretrained:
    """The Stable Diffusion of a run's `config.init.checkpoint` and `variant`; no weights yet.

    Raises:
      UserError: none is named, it is not there, or of an architecture that is not known.
    """
    if not where:
        raise UserError(
            "--cache is given and --checkpoint is empty: name the Stable Diffusion whose networks "
            "are to be asked, the one of config.init.checkpoint."
        )
    return open_pretrained(where, variant)


def build_caches(
    source: RecordSource,
    kinds: Sequence[str],
    pretrained: Pretrained,
    *,
    tokenizer: str = "openai/clip-vit-large-patch14",
    clip_skip: int = 0,
) -> list[Path]:
    """Writes the caches that are not there yet, in bfloat16; returns their folders.

    The networks compute in float32. A cache that was interrupted leaves nothing that loads, and no
    two processes may write caches of the same records at a time.

    Args:
      source: the records of the split `SPLIT`.
      kinds: of `ragaf_jax.caches.KINDS`.
      pretrained: what `open_checkpoint` gives.
      tokenizer: for a single file, as `config.init.tokenizer`.
      clip_skip: as `config.model.clip_skip`.

    Raises:
      UserError: the weights are damaged, or there is no tokenizer.
    """
    folders = []
    for kind in kinds:
        if kind == "latents":
            folders.append(_cache_latents(source, pretrained))
        else:
            folders.append(_cache_text(source, pretrained, tokenizer, clip_skip))
    return folders


def _cache_latents(source: RecordSource, pretrained: Pretrained) -> Path:
    vae, params = load_network(pretrained.vae)
    autoencoder = KlAutoencoder(vae)
    folder = cache_folder(source.folder, "latents", latents_key(params, vae.config))
    if _is_there(folder, source):
        return folder

    @jax.jit
    def encode(
        params: Tree, images: Float[jax.Array, "b s s 3"]
    ) -> BFloat16[jax.Array, "b 2 _ _ _"]:
        views = jnp.stack([images, images[:, :, ::-1]], 1)
        moments = autoencoder.moments(params, views.reshape(-1, *images.shape[1:]))
        both = jnp.concatenate(moments, -1).astype(jnp.bfloat16)
        return both.reshape(*views.shape[:2], *both.shape[1:])

    size = source.metadata["image_size"]
    batch = max(1, min(_MOST_PICTURES, _PIXELS // size**2 // 2))
    pictures = grain.MapDataset.source(source.without("sketch", "labels", "true_labels"))
    batches = pictures.map(lambda record: scaled(record["image"])).batch(batch)
    side, channels = size // autoencoder.downscale, autoencoder.channels
    with (
        _appearing(folder, source) as unfinished,
        tqdm(total=len(source), desc="latents", unit=" pictures") as bar,
    ):
        _write(
            unfinished / f"{SPLIT}.npy",
            (len(source), 2, side, side, 2 * channels),
            (_padded(encode, params, images, batch) for images in batches.to_iter_dataset(_READ)),
            bar,
        )
    return folder


def _cache_text(
    source: RecordSource, pretrained: Pretrained, tokenizer: str, clip_skip: int
) -> Path:
    config = pretrained.text_encoder.config
    if clip_skip >= config.num_hidden_layers:
        raise UserError(
            f"--clip_skip is {clip_skip}; the text encoder has {config.num_hidden_layers} layers, "
            "of which one must stay."
        )
    network, params = load_network(pretrained.text_encoder)
    network = network.clone(clip_skip=clip_skip)
    words = tokenizer_of(pretrained, tokenizer)
    key = text_key(params, config, clip_skip, words.to_json())
    folder = cache_folder(source.folder, "text", key)
    if _is_there(folder, source):
        return folder
    captions = _captions(source)
    length = config.max_position_embeddings

    @jax.jit
    def encode(params: Tree, tokens: Int[jax.Array, "b t"]) -> BFloat16[jax.Array, "b t d"]:
        return network.apply({"params": params}, tokens).astype(jnp.bfloat16)

    batches = (captions[i : i + _CAPTIONS] for i in range(0, len(captions), _CAPTIONS))
    with (
        _appearing(folder, source) as unfinished,
        tqdm(total=len(captions), desc="text", unit=" captions") as bar,
    ):
        (unfinished / f"{SPLIT}.json").write_text(json.dumps(captions), encoding="utf-8")
        _write(
            unfinished / f"{SPLIT}.npy",
            (len(captions), length, config.hidden_size),
            (
                _padded(encode, params, words.encode(batch, length)[0], _CAPTIONS)
                for batch in batches
            ),
            bar,
        )
    return folder


def _captions(source: RecordSource) -> list[str]:
    """Every caption of the records, as it is and as it is in a mirror, once."""
    texts = source.without("image", "sketch", "labels", "true_labels")
    found: dict[str, None] = {}
    for index in tqdm(range(len(texts)), desc="captions", unit=" records", leave=False, delay=2):
        for caption in texts[index]["captions"]:
            found |= {caption: None, swap_sides(caption): None}
    return list(found)


def _padded(
    encode: Callable[[Tree, np.ndarray], jax.Array], params: Tree, inputs: np.ndarray, batch: int
) -> np.ndarray:
    """What `encode` makes of up to `batch` inputs, compiled for just `batch` of them."""
    rows = np.minimum(np.arange(batch), len(inputs) - 1)
    return np.asarray(encode(params, inputs[rows]))[: len(inputs)]


def _write(path: Path, shape: tuple[int, ...], batches: Iterator[np.ndarray], bar: tqdm) -> None:
    """An array of bfloat16, batch after batch: on a full disk a map of the file would crash."""
    header = {"descr": "<u2", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in batches:
            assert batch.shape[1:] == shape[1:]
            file.write(np.ascontiguousarray(batch).view(np.uint16).tobytes())
            bar.update(len(batch))


def _is_there(folder: Path, source: RecordSource) -> bool:
    """Whether there is a cache of these records; one of others is deleted."""
    if folder.exists() and not of_these_records(folder, source.folder):
        shutil.rmtree(folder)
    return folder.exists()


@contextlib.contextmanager
def _appearing(folder: Path, source: RecordSource) -> Iterator[Path]:
    """A new folder that gets its name when all is in it."""
    unfinished = folder.with_name(f"incomplete.{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # what an interrupted process left
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    (unfinished / RECORDS_FILE).write_text(records_key(source.folder), encoding="utf-8")
    unfinished.rename(folder)
