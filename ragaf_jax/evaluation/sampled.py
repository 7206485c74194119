"""Pictures of both stages of held-out drawings: over all devices, and kept as they are made."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import UInt8
from tqdm import tqdm

from ragaf_jax import __version__
from ragaf_jax.batch import Batch, in_chunks
from ragaf_jax.runtime.sharding import AXES, filled, on_mesh, put_batch, replicated
from ragaf_jax.sampling.stages import Stage, make_draw, settings_of
from ragaf_jax.weights.fingerprint import fingerprint

# Drawings at a time. Which noise a drawing gets depends on it; how many devices share them has no
# part in that.
CHUNK = 8

Pictures = UInt8[np.ndarray, "b s s 3"]
Sample = Callable[[Batch, int], tuple[Pictures, Pictures]]


def sample_both(
    config: ml_collections.ConfigDict,
    one: Stage,
    two: Stage,
    batch: Batch,
    kept: Path | None = None,
) -> tuple[Pictures, Pictures]:
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
    pieces: list[tuple[Pictures, Pictures]] = []
    with tqdm(total=len(batch.tokens), desc="sampling", unit=" drawings") as bar:
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
    """A function of (drawings, number of their chunk) that all devices share."""
    fields = config.sample
    process1, process2 = one.process(fields.sampler), two.process(fields.sampler)
    settings = settings_of(fields.to_dict())
    courses = process1.course(fields.steps), process2.course(fields.steps, fields.strength)
    mesh = Mesh(np.array(jax.devices())[:, None], AXES, axis_types=(AxisType.Auto,) * 2)
    draw = on_mesh(mesh, make_draw(one.model, process1, two.model, process2))
    params1, params2 = jax.device_put((one.params, two.params), replicated(mesh))

    def sample(piece: Batch, chunk: int) -> tuple[Pictures, Pictures]:
        key = jax.random.fold_in(jax.random.key(config.seed), chunk)
        shared, count = put_batch(mesh, filled(piece, mesh.size)), len(piece.tokens)
        drawn = jax.device_get(draw(params1, params2, shared, key, settings, *courses))
        return drawn.stage1[:count], drawn.stage2[:count]

    return sample


def _fingerprint(config: ml_collections.ConfigDict, one: Stage, two: Stage, batch: Batch) -> str:
    """Of parameters, conditions and all settings: what has another is another picture."""
    given = {"sketch": batch.sketch, "labels": batch.labels, "mask": batch.token_mask}
    given |= batch.graph._asdict()
    arrays = {
        "stage1": one.params,
        "stage2": two.params,
        "drawings": {name: x for name, x in given.items() if x is not None},
    }
    tokens = np.asarray(batch.tokens).tolist()
    trained = [stage.config.to_dict() for stage in (one, two)]
    made = [[x["model"], x["diffusion"]] for x in trained]
    steps = [one.step, two.step]
    return fingerprint(
        arrays, steps, config.sample.to_dict(), config.seed, CHUNK, tokens, made, __version__
    )


def _read(file: Path) -> tuple[Pictures, Pictures] | None:
    """The pictures of a chunk; None where there are none that can be read."""
    try:
        with np.load(file) as arrays:
            return arrays["stage1"], arrays["stage2"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(file: Path, stage1: Pictures, stage2: Pictures) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as opened:
        np.savez_compressed(opened, stage1=stage1, stage2=stage2)
    partial.replace(file)
