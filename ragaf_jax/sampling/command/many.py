"""Samples many sketches over all devices, a folder each; completed ones are kept."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from ragaf_jax.errors import UserError
from ragaf_jax.figures.overview import FILE, write_overview
from ragaf_jax.figures.upscaled import SIDE
from ragaf_jax.folders import whole_folder
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.sampling.command.tables import Row
from ragaf_jax.sampling.loop import Finished
from ragaf_jax.sampling.options import Options, check_seed
from ragaf_jax.sampling.outputs import FILES, write_outputs
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA, comparable, file_facts
from ragaf_jax.sampling.request import Request, SketchPage, recorded_settings
from ragaf_jax.sampling.results import Result, result_of


class Batch(NamedTuple):
    """What became of a batch's rows, by their names.

    Attributes:
      sampled: in this call.
      kept: were there already, made of the same sketch, words, seed, settings and checkpoints.
      failed: and why, in a sentence.
      notices: of the sketches and texts of `sampled`, where there are any.
    """

    sampled: list[str]
    kept: list[str]
    failed: dict[str, str]
    notices: dict[str, list[str]]


_MOST_NOTICES = 20  # lines, which fit in a terminal


def batch_notices(notices: Mapping[str, Sequence[str]]) -> list[str]:
    """The first notices of a batch as lines with the names of their rows; the rest as a count."""
    lines = [f"{name}: {notice}" for name, found in notices.items() for notice in found]
    if len(lines) <= _MOST_NOTICES:
        return lines
    more = len(lines) - _MOST_NOTICES
    return [*lines[:_MOST_NOTICES], f"… and {more} more notices: see each {METADATA}."]


class _Ready(NamedTuple):
    row: Row
    page: SketchPage
    request: Request
    settings: dict[str, Any]
    facts: dict[str, Any]


def run_batch(
    pipeline: Pipeline,
    rows: Sequence[Row],
    output: Path,
    options: Options,
    seed: int,
    facts: Mapping[str, Any],
    crop: bool = True,
    upscale: int = SIDE,
    neck_splits: int | float = NECK_SPLITS,
) -> Batch:
    """Samples the rows that are not there yet, and writes an overview of all.

    Args:
      pipeline: whose devices share the rows.
      rows: the requests.
      output: gets a folder a row, each whole or not at all.
      options: of all.
      seed: of the rows that have none of their own.
      facts: of the stages, for metadata.json.
      crop, neck_splits: of all, as in `Pipeline.page`.
      upscale: as in `Result.save`.
    """
    facts = {**facts, "crop": crop, "upscale": upscale}
    done = Batch([], [], {}, {})
    together: list[_Ready] = []
    with tqdm(total=len(rows), desc="sampling", unit=" sketches") as bar:
        given = options, seed, facts, neck_splits
        for ready in _ready(pipeline, rows, output, *given, done, bar):
            together.append(ready)
            if len(together) == pipeline.together:
                _draw(pipeline, together, output, options, done, bar)
                together = []
        if together:
            _draw(pipeline, together, output, options, done, bar)
    made = {*done.sampled, *done.kept}
    write_overview(output, [row.name for row in rows if row.name in made])
    return done


def _ready(
    pipeline: Pipeline,
    rows: Sequence[Row],
    output: Path,
    options: Options,
    seed: int,
    facts: Mapping[str, Any],
    neck_splits: int | float,
    done: Batch,
    bar: tqdm,
) -> Iterator[_Ready]:
    """The rows that are still to be sampled; the others go into `done`."""
    for row in rows:
        own = seed if row.seed is None else row.seed
        words = row.prompt, row.region_prompts, row.negative_prompt
        settings = {
            **recorded_settings(*words, own, 1, options),
            "neck_splits": neck_splits,
        }
        try:
            if row.name == FILE:
                raise UserError(f"{FILE} is the name of the overview; choose another name.")
            check_seed(own)
            about = {**file_facts({"sketch": row.sketch}), **facts}
            if _is_there(output / row.name, {**settings, **about}):
                done.kept.append(row.name)
                bar.update()
                continue
            page = pipeline.page(row.sketch, crop=facts["crop"], neck_splits=neck_splits)
            request = pipeline.request(page, row.prompt, row.region_prompts, row.negative_prompt)
            pipeline.check(request, options)
        except (UserError, OSError) as error:
            done.failed[row.name] = _sentence(error)
            bar.update()
            continue
        yield _Ready(row, page, request, settings, about)


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}."
    return str(error)


def _draw(
    pipeline: Pipeline,
    together: Sequence[_Ready],
    output: Path,
    options: Options,
    done: Batch,
    bar: tqdm,
) -> None:
    request = [ready.request for ready in together]
    finished = pipeline.run(request, [ready.settings["seed"] for ready in together], options)
    for i, ready in enumerate(together):
        result = _result(ready, finished, i)
        with whole_folder(output / ready.row.name) as folder:
            write_outputs(folder, result, ready.facts, ready.facts["upscale"])
        done.sampled.append(ready.row.name)
        if ready.request.notices:
            done.notices[ready.row.name] = ready.request.notices
        bar.update()


def _result(ready: _Ready, finished: Finished, i: int) -> Result:
    one = Finished(
        finished.images[i : i + 1],
        None if finished.coarse is None else finished.coarse[i : i + 1],
        jax.tree.map(lambda x: x[:, i : i + 1], finished.trace),
    )
    return result_of(ready.page, ready.request, one, ready.settings, {})


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
    if not isinstance(found, dict):
        return False
    as_json = comparable(json.loads(json.dumps(dict(wanted))))
    # Texts that are empty are left out on both sides, and outputs of older versions have no
    # `neck_splits`.
    names = {*as_json, "region_prompts", "negative_prompt"}
    found = comparable({"neck_splits": NECK_SPLITS, **found})
    return all(found.get(name) == as_json.get(name) for name in names)
