"""Images of both stages for held-out examples: over all devices, and kept as they are made."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from ragaf_jax import __version__
from ragaf_jax.batch import Batch, in_chunks
from ragaf_jax.sampling.loaded_stages import LoadedStages
from ragaf_jax.sampling.loop import Images
from ragaf_jax.sampling.options import make_options
from ragaf_jax.sampling.stage_sampler import batch_keys
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.weights.fingerprint import fingerprint

# Drawings at a time. Which noise a drawing gets depends on it; how many devices share them has no
# part in that.
CHUNK = 8

Sample = Callable[[Batch, int], tuple[Images, Images]]


def sample_both(
    config: ml_collections.ConfigDict,
    one: Stage,
    two: Stage,
    batch: Batch,
    kept: Path | None = None,
) -> tuple[Images, Images]:
    """The pictures of both stages, as `config.sample` and `config.seed` say.

    Args:
      config: of this command.
      one, two: the stages.
      batch: of the drawings.
      kept: a folder in which every chunk is kept as soon as it is there, under the fingerprint of
        all that decides it. What lies there already is not sampled again.
    """
    folder = None if kept is None else kept / _fingerprint(config, one, two, batch)
    sample: Sample | None = None
    pieces: list[tuple[Images, Images]] = []
    with tqdm(total=len(batch.text.tokens), desc="sampling", unit=" drawings") as bar:
        for i, (piece, fresh) in enumerate(in_chunks(batch, CHUNK)):
            file = None if folder is None else folder / f"{i:05}.npz"
            found = None if file is None else _read(file)
            if found is None:
                sample = sample or _sampler(config, one, two)
                first, second = sample(piece, i)
                found = first[fresh], second[fresh]
                if file is not None:
                    _write(file, *found)
            pieces.append(found)
            bar.update(len(found[0]))
    first_stage, second_stage = (np.concatenate(stage) for stage in zip(*pieces, strict=True))
    return first_stage, second_stage


def _sampler(config: ml_collections.ConfigDict, one: Stage, two: Stage) -> Sample:
    """A function of (examples, number of their chunk) that all devices share."""
    stages = LoadedStages(one, two, jax.devices())
    options = make_options(config.sample.to_dict(), {}, two.config.diffusion.steps, "both")

    def sample(piece: Batch, chunk: int) -> tuple[Images, Images]:
        chunk_key = jax.random.fold_in(jax.random.key(config.seed), chunk)
        keys = {
            number: batch_keys(key, len(piece.text.tokens))
            for number, key in enumerate(jax.random.split(chunk_key), 1)
        }
        finished = stages.sample_batch(piece, keys, options)
        assert finished.coarse is not None
        return finished.coarse, finished.images

    return sample


def _fingerprint(config: ml_collections.ConfigDict, one: Stage, two: Stage, batch: Batch) -> str:
    """Of parameters, conditions and all settings: what has another is another picture."""
    given = {"sketch": batch.sketch, "labels": batch.labels, "mask": batch.text.mask}
    given |= batch.graph._asdict()
    arrays = {
        "stage1": one.params,
        "stage2": two.params,
        "drawings": {name: x for name, x in given.items() if x is not None},
    }
    tokens = np.asarray(batch.text.tokens).tolist()
    trained = [stage.config.to_dict() for stage in (one, two)]
    made = [[x["model"], x["diffusion"]] for x in trained]
    steps = [one.step, two.step]
    return fingerprint(
        arrays, steps, config.sample.to_dict(), config.seed, CHUNK, tokens, made, __version__
    )


def _read(file: Path) -> tuple[Images, Images] | None:
    """The pictures of a chunk; None where there are none that can be read."""
    try:
        with np.load(file) as arrays:
            return arrays["stage1"], arrays["stage2"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(file: Path, stage1: Images, stage2: Images) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as opened:
        np.savez_compressed(opened, stage1=stage1, stage2=stage2)
    partial.replace(file)
