"""Many drawings, a folder each, over all devices of a pipeline; none that is there already."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from ragaf_jax.errors import UserError
from ragaf_jax.folders import whole_folder
from ragaf_jax.sampling.drawn import Finished, Result, result_of
from ragaf_jax.sampling.options import Options, check_seed
from ragaf_jax.sampling.outputs import FILES, METADATA, write_outputs
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.request import SketchPage, Told, wording
from ragaf_jax.sampling.rows import Row


class Batch(NamedTuple):
    """What became of a batch's rows, by their names.

    Attributes:
      drawn: now.
      kept: were there already, made of the same sketch, words, seed, settings and checkpoints.
      failed: and why, in a sentence.
    """

    drawn: list[str]
    kept: list[str]
    failed: dict[str, str]


class _Ready(NamedTuple):
    row: Row
    drawing: SketchPage
    told: Told
    settings: dict[str, Any]
    facts: dict[str, Any]


def run_batch(
    pipeline: Pipeline,
    rows: Sequence[Row],
    output: Path,
    options: Options,
    seed: int,
    facts: Mapping[str, Any],
) -> Batch:
    """Draws the rows that are not there yet.

    Args:
      pipeline: whose devices share the rows.
      rows: what is to be drawn.
      output: gets a folder a row, each whole or not at all.
      options: of all.
      seed: of the rows that have none of their own.
      facts: of the stages, for metadata.json.
    """
    done = Batch([], [], {})
    together: list[_Ready] = []
    with tqdm(total=len(rows), desc="drawing", unit=" sketches") as bar:
        for ready in _ready(pipeline, rows, output, options, seed, facts, done, bar):
            together.append(ready)
            if len(together) == pipeline.together:
                _draw(pipeline, together, output, options, done, bar)
                together = []
        if together:
            _draw(pipeline, together, output, options, done, bar)
    return done


def _ready(
    pipeline: Pipeline,
    rows: Sequence[Row],
    output: Path,
    options: Options,
    seed: int,
    facts: Mapping[str, Any],
    done: Batch,
    bar: tqdm,
) -> Iterator[_Ready]:
    """What is still to be drawn; the rest goes into `done`."""
    for row in rows:
        own = seed if row.seed is None else row.seed
        settings = {
            **wording(row.prompt, row.region_prompts, row.negative_prompt),
            "seed": own,
            "count": 1,
            **dataclasses.asdict(options),
        }
        try:
            check_seed(own)
            digest = hashlib.sha256(row.sketch.read_bytes()).hexdigest()
            about = {"sketch": str(row.sketch), "sketch_sha256": digest, **facts}
            if _is_there(output / row.name, {**settings, **about}):
                done.kept.append(row.name)
                bar.update()
                continue
            drawing = pipeline.page(row.sketch)
            told = pipeline.tell(drawing, row.prompt, row.region_prompts, row.negative_prompt)
            pipeline.check(told, options)
        except (UserError, OSError) as error:
            done.failed[row.name] = str(error)
            bar.update()
            continue
        yield _Ready(row, drawing, told, settings, about)


def _draw(
    pipeline: Pipeline,
    together: Sequence[_Ready],
    output: Path,
    options: Options,
    done: Batch,
    bar: tqdm,
) -> None:
    told = [ready.told for ready in together]
    finished = pipeline.run(told, [ready.settings["seed"] for ready in together], options)
    for i, ready in enumerate(together):
        result = _result(ready, finished, i)
        with whole_folder(output / ready.row.name) as folder:
            write_outputs(folder, result, ready.facts)
        done.drawn.append(ready.row.name)
        bar.update()


def _result(ready: _Ready, finished: Finished, i: int) -> Result:
    one = Finished(
        finished.images[i : i + 1],
        None if finished.coarse is None else finished.coarse[i : i + 1],
        jax.tree.map(lambda x: x[:, i : i + 1], finished.trace),
    )
    return result_of(ready.drawing, ready.told, one, ready.settings, {})


def _is_there(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a whole output of the same request lies there already.

    Raises:
      UserError: something else than an output lies there.
    """
    if not folder.is_dir():
        return False
    if not {path.name for path in folder.iterdir()} <= FILES:
        raise UserError(f"The output folder {folder} holds other files; name another --output.")
    try:
        found = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    as_json = json.loads(json.dumps(dict(wanted)))
    return all(found.get(name) == value for name, value in as_json.items())
