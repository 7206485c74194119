"""Caches the outputs of frozen networks for all records: `prepare --cache=latents,text`.

Training steps with caches run neither the VAE's encoder nor the text encoder.
`input_pipeline.cached` defines the format of caches and reads them.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import BFloat16, Float
from tqdm import tqdm

from input_pipeline.cached import (
    RECORDS_FILE,
    cache_folder,
    latents_name,
    of_these_records,
    pooled_name,
    records_key,
)
from input_pipeline.records import RecordSource
from input_pipeline.transforms import scaled
from ragaf_jax.batch import Text
from ragaf_jax.errors import UserError
from ragaf_jax.framing import bucket_name
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.text.windows import encode_windows
from ragaf_jax.weights.fingerprint import latents_key, text_key
from ragaf_jax.weights.load import Tree
from ragaf_jax.weights.modules import load_network
from ragaf_jax.weights.pretrained import Pretrained, open_pretrained
from ragaf_jax.weights.vocabulary import tokenizer_of

T = TypeVar("T")

# Only training reads caches, because validation is rare.
SPLIT = "train"
# Limits per call; at 512 px, four images and their mirror images.
_PIXELS, _MOST_IMAGES, _CAPTIONS = 2**21, 32, 64
# Grain's default prefetches hundreds of batches, gigabytes of images.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


def open_checkpoint(where: str, variant: str = "", vae: str = "") -> Pretrained:
    """Opens the Stable Diffusion of `config.init`, without its weights.

    Args:
      where, variant, vae: `config.init.checkpoint`, `variant` and `vae`.

    Raises:
      UserError: it is not named, missing, or has an unknown architecture, or the VAE's latents
        differ.
    """
    if not where:
        raise UserError(
            "--cache is given and --checkpoint is empty: name the Stable Diffusion whose outputs "
            "are cached, the one of config.init.checkpoint."
        )
    return open_pretrained(where, variant, vae=vae)


def build_caches(
    source: RecordSource,
    kinds: Sequence[str],
    pretrained: Pretrained,
    tokenizer: str = "openai/clip-vit-large-patch14",
    clip_skip: int = 0,
) -> list[Path]:
    """Writes the missing caches in bfloat16 and returns the folders of all.

    The networks compute in float32. Interrupted caches are never read. Only one process at a time
    may write caches of the same records.

    Args:
      source: the records of the split `SPLIT`.
      kinds: from `ragaf_jax.caches.KINDS`.
      pretrained: the result of `open_checkpoint`.
      tokenizer, clip_skip: as `config.init.tokenizer` and `config.model.clip_skip`.

    Raises:
      UserError: the weights are damaged, or the tokenizer is missing.
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
    if _exists(folder, source):
        return folder

    @jax.jit
    def encode(
        params: Tree, images: Float[jax.Array, "b h w 3"]
    ) -> BFloat16[jax.Array, "b 2 _ _ _"]:
        views = jnp.stack([images, images[:, :, ::-1]], 1)
        moments = autoencoder.moments(params, views.reshape(-1, *images.shape[1:]))
        both = jnp.concatenate(moments, -1).astype(jnp.bfloat16)
        return both.reshape(*views.shape[:2], *both.shape[1:])

    with _new_folder(folder, source) as unfinished:
        for size in source.sizes:  # one compilation each
            part = source.of_size(size).without("sketch", "labels", "true_labels")
            bucket = bucket_name(size) if "buckets" in source.metadata else ""
            batch = max(1, min(_MOST_IMAGES, _PIXELS // (size[0] * size[1]) // 2))
            records = grain.MapDataset.source(part)
            batches = records.map(lambda record: scaled(record["image"])).batch(batch)
            sides = (side // autoencoder.downscale for side in size)
            shape = (len(part), 2, *sides, 2 * autoencoder.channels)
            latents = (
                [_padded(encode, params, one, batch)] for one in batches.to_iter_dataset(_READ)
            )
            files = {unfinished / latents_name(SPLIT, bucket): shape}
            _write(files, latents, f"latents {bucket}".rstrip(), " images")
    return folder


def _cache_text(
    source: RecordSource, pretrained: Pretrained, tokenizer: str, clip_skip: int
) -> Path:
    config = pretrained.text_encoder.config
    if clip_skip >= config.num_hidden_layers:
        raise UserError(
            f"--clip_skip is {clip_skip}; the text encoder has {config.num_hidden_layers} layers, "
            "and must use at least one; lower it."
        )
    network, params = load_network(pretrained.text_encoder)
    network = network.clone(clip_skip=clip_skip)
    vocabulary = tokenizer_of(pretrained, tokenizer)
    key = text_key(params, config, clip_skip, vocabulary.to_json())
    folder = cache_folder(source.folder, "text", key)
    if _exists(folder, source):
        return folder
    captions = _captions(source)
    length = config.max_position_embeddings

    @jax.jit
    def encode(params: Tree, text: Text) -> list[BFloat16[jax.Array, "b ..."]]:
        apply = functools.partial(network.apply, {"params": params})
        found = encode_windows(network, apply, text, length)
        outputs = [found.states, found.pooled]
        return [jnp.asarray(x, jnp.bfloat16) for x in outputs if x is not None]

    batches = (captions[i : i + _CAPTIONS] for i in range(0, len(captions), _CAPTIONS))
    texts = (Text(*vocabulary.encode(batch, length)) for batch in batches)
    states = (_padded(encode, params, batch, _CAPTIONS) for batch in texts)
    with _new_folder(folder, source) as unfinished:
        (unfinished / f"{SPLIT}.json").write_text(json.dumps(captions), encoding="utf-8")
        shape = len(captions), length, config.hidden_size
        files: dict[Path, tuple[int, ...]] = {unfinished / f"{SPLIT}.npy": shape}
        if isinstance(config, SdxlTextConfig):
            files[unfinished / pooled_name(SPLIT)] = len(captions), config.pooled_width
        _write(files, states, "text", " captions")
    return folder


def _captions(source: RecordSource) -> list[str]:
    """The distinct captions of the records and of their mirror images.

    `config.data.mirror` is a field of the run: captions of mirrored photographs are few.
    """
    texts = source.without("image", "sketch", "labels", "true_labels")
    found: dict[str, None] = {}
    for index in tqdm(range(len(texts)), desc="captions", unit=" records", leave=False, delay=2):
        for caption in texts[index]["captions"]:
            found |= {caption: None, source.mirrored_caption(caption) or caption: None}
    return list(found)


def _padded(encode: Callable[[Tree, T], Any], params: Tree, inputs: T, batch: int) -> Any:
    """Applies `encode`, which is compiled for `batch` inputs, to up to `batch` inputs."""
    count = len(jax.tree.leaves(inputs)[0])
    indices = np.minimum(np.arange(batch), count - 1)
    outputs = encode(params, jax.tree.map(lambda x: x[indices], inputs))
    return jax.tree.map(lambda x: np.asarray(x)[:count], outputs)


def _write(
    files: Mapping[Path, tuple[int, ...]],
    batches: Iterator[Sequence[np.ndarray]],
    name: str,
    unit: str,
) -> None:
    """Writes bfloat16 arrays batch by batch; a memory map would crash on a full disk.

    Args:
      files: the shape of the array in each file.
      batches: rows of all arrays.
      name, unit: of the progress bar.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(path.open("wb")) for path in files]
        bar = stack.enter_context(tqdm(total=next(iter(files.values()))[0], desc=name, unit=unit))
        for file, shape in zip(opened, files.values(), strict=True):
            header = {"descr": "<u2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for arrays in batches:
            for file, shape, rows in zip(opened, files.values(), arrays, strict=True):
                assert rows.shape[1:] == shape[1:]
                file.write(np.ascontiguousarray(rows).view(np.uint16).tobytes())
            bar.update(len(arrays[0]))


def _exists(folder: Path, source: RecordSource) -> bool:
    """Whether there is a cache of these records; deletes a cache of other records."""
    if folder.exists() and not of_these_records(folder, source.folder):
        shutil.rmtree(folder)
    return folder.exists()


@contextlib.contextmanager
def _new_folder(folder: Path, source: RecordSource) -> Iterator[Path]:
    """A temporary folder, which is renamed to `folder` when it is complete."""
    unfinished = folder.with_name(f"incomplete.{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of an interrupted process
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    (unfinished / RECORDS_FILE).write_text(records_key(source.folder), encoding="utf-8")
    unfinished.rename(folder)
