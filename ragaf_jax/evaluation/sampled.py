"""Samples both stages on held-out examples on all devices, and stores each chunk at once."""

import functools
import itertools
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from ragaf_jax import __version__
from ragaf_jax.batch import Batch, Images, by_size, in_chunks, over_sizes
from ragaf_jax.errors import UserError
from ragaf_jax.sampling.loaded_stages import LoadedStages
from ragaf_jax.sampling.options import make_options
from ragaf_jax.sampling.stage_sampler import batch_keys
from ragaf_jax.sampling.stages import Stage, restore_both
from ragaf_jax.weights.fingerprint import fingerprint

# Examples per call. An example's noise depends on it, but not on the number of devices.
CHUNK = 8

Sample = Callable[[Batch, int], tuple[Images, Images]]


def restore_stages(
    config: ml_collections.ConfigDict, workdir: Path, checkpoint: str, command: str
) -> tuple[Stage, Stage]:
    """Stage 1 of `config.stage1` and Stage 2 of `workdir`.

    Raises:
      UserError: `config` has only one stage, with the name of the command; as `restore_both`.
    """
    if config.stage != 2 or not config.stage1:
        raise UserError(
            f"{command} needs both stages and has Stage {config.stage} with config.stage1="
            f"{config.stage1!r}; use configs/stage2.py with --config.stage1=<workdir of Stage 1>."
        )
    return restore_both(Path(config.stage1), workdir, config.stage1_checkpoint, checkpoint)


def sample_both(
    config: ml_collections.ConfigDict,
    one: Stage,
    two: Stage,
    batch: Batch,
    cache: Path | None = None,
) -> tuple[Images, Images]:
    """The images of both stages by `config.sample` and `config.seed`, of this command.

    Examples of each size are sampled together; chunks are numbered over all sizes.

    cache: a folder for finished chunks, named by the fingerprint of all inputs. Chunks that it
      contains are not sampled again.
    """
    folder = None if cache is None else cache / _fingerprint(config, one, two, batch)
    sampler = functools.cache(functools.partial(_sampler, config, one, two))
    numbers = itertools.count()
    with tqdm(total=len(batch.text.tokens), desc="sampling", unit=" examples") as bar:

        def sampled(some: Batch) -> tuple[Images, Images]:
            chunks: list[tuple[Images, Images]] = []
            for (chunk, fresh), i in zip(in_chunks(some, CHUNK), numbers, strict=False):
                file = None if folder is None else folder / f"{i:05}.npz"
                found = None if file is None else _read(file)
                if found is None:
                    first, second = sampler()(chunk, i)
                    found = first[fresh], second[fresh]
                    if file is not None:
                        _write(file, *found)
                chunks.append(found)
                bar.update(len(found[0]))
            first_stage, second_stage = (np.concatenate(x) for x in zip(*chunks, strict=True))
            return first_stage, second_stage

        return over_sizes(sampled, batch)


def _sampler(config: ml_collections.ConfigDict, one: Stage, two: Stage) -> Sample:
    """A function of (examples, index of their chunk) that uses all devices."""
    stages = LoadedStages(one, two, jax.devices())
    options = make_options(config.sample.to_dict(), {}, two.config.diffusion.steps, "both")

    def sample(examples: Batch, chunk: int) -> tuple[Images, Images]:
        chunk_key = jax.random.fold_in(jax.random.key(config.seed), chunk)
        keys = {
            number: batch_keys(key, len(examples.text.tokens))
            for number, key in enumerate(jax.random.split(chunk_key), 1)
        }
        finished = stages.sample_batch(examples, keys, options)
        assert finished.coarse is not None
        return finished.coarse, finished.images

    return sample


def _fingerprint(config: ml_collections.ConfigDict, one: Stage, two: Stage, batch: Batch) -> str:
    """Of parameters, conditions and all settings that determine the images."""
    conditions = {"sketch": batch.sketch, "labels": batch.labels, "mask": batch.text.mask}
    conditions |= batch.graph._asdict()
    conditions = {name: x for name, x in conditions.items() if x is not None}
    sizes = [group for _, group in by_size(conditions)]
    arrays = {
        "stage1": one.params,
        "stage2": two.params,
        "drawings": sizes[0] if len(sizes) == 1 else {str(i): x for i, x in enumerate(sizes)},
    }
    tokens = np.asarray(batch.text.tokens).tolist()
    trained = [stage.config.to_dict() for stage in (one, two)]
    made = [[x["model"], x["diffusion"]] for x in trained]
    steps = [one.step, two.step]
    return fingerprint(
        arrays, steps, config.sample.to_dict(), config.seed, CHUNK, tokens, made, __version__
    )


def _read(file: Path) -> tuple[Images, Images] | None:
    """The images of a chunk; None if its file is missing or damaged."""
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
