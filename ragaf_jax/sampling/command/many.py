"""Samples many sketches on all devices, with one output folder per sketch."""

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
from ragaf_jax.sampling.command.batch_requests import BatchRequest
from ragaf_jax.sampling.loop import Finished
from ragaf_jax.sampling.options import Options, check_seed
from ragaf_jax.sampling.outputs import FILES, write_outputs
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA, comparable, file_facts
from ragaf_jax.sampling.request import Request, SketchPage, recorded_settings
from ragaf_jax.sampling.results import Result, result_of


class BatchResult(NamedTuple):
    """The outcome of a batch, by names of its requests.

    Attributes:
      sampled: in this call.
      existing: before this call, from the same sketch, texts, seed, settings and checkpoints.
      failed: reasons, as sentences.
      notices: of `sampled`, where there are any.
    """

    sampled: list[str]
    existing: list[str]
    failed: dict[str, str]
    notices: dict[str, list[str]]


_MOST_NOTICES = 20  # lines, which fit in a terminal


def batch_notices(notices: Mapping[str, Sequence[str]]) -> list[str]:
    """The first notices of a batch, each after the name of its request; the rest as a count."""
    lines = [f"{name}: {notice}" for name, found in notices.items() for notice in found]
    if len(lines) <= _MOST_NOTICES:
        return lines
    more = len(lines) - _MOST_NOTICES
    return [*lines[:_MOST_NOTICES], f"… and {more} more notices: see each {METADATA}."]


class _Prepared(NamedTuple):
    name: str
    page: SketchPage
    request: Request
    settings: dict[str, Any]
    facts: dict[str, Any]


def run_batch(
    pipeline: Pipeline,
    requests: Sequence[BatchRequest],
    output: Path,
    options: Options,
    seed: int,
    facts: Mapping[str, Any],
    crop: bool = True,
    upscale: int = SIDE,
    neck_splits: int | float = NECK_SPLITS,
) -> BatchResult:
    """Samples the requests whose outputs do not exist, and writes an overview of all.

    Args:
      pipeline: its devices share the requests.
      requests: with unique names.
      output: receives one folder per request, complete or not at all.
      options: of all requests.
      seed: of requests without a seed.
      facts: of the stages, for metadata.json.
      crop, neck_splits: of all requests, as in `Pipeline.page`.
      upscale: as in `Result.save`.
    """
    facts = {**facts, "crop": crop, "upscale": upscale}
    done = BatchResult([], [], {}, {})
    batch: list[_Prepared] = []
    with tqdm(total=len(requests), desc="sampling", unit=" sketches") as bar:
        given = options, seed, facts, neck_splits
        for prepared in _prepare(pipeline, requests, output, *given, done, bar):
            batch.append(prepared)
            if len(batch) == pipeline.batch_size:
                _sample(pipeline, batch, output, options, done, bar)
                batch = []
        if batch:
            _sample(pipeline, batch, output, options, done, bar)
    complete = {*done.sampled, *done.existing}
    write_overview(output, [one.name for one in requests if one.name in complete])
    return done


def _prepare(
    pipeline: Pipeline,
    requests: Sequence[BatchRequest],
    output: Path,
    options: Options,
    seed: int,
    facts: Mapping[str, Any],
    neck_splits: int | float,
    done: BatchResult,
    bar: tqdm,
) -> Iterator[_Prepared]:
    """Yields the requests to sample; adds those that exist or fail to `done`."""
    for one in requests:
        own_seed = seed if one.seed is None else one.seed
        texts = one.prompt, one.region_prompts, one.negative_prompt
        settings = {**recorded_settings(*texts, own_seed, 1, options), "neck_splits": neck_splits}
        try:
            if one.name == FILE:
                raise UserError(f"{FILE} is the name of the overview; choose another name.")
            check_seed(own_seed)
            all_facts = {**file_facts({"sketch": one.sketch}), **facts}
            if _exists(output / one.name, {**settings, **all_facts}):
                done.existing.append(one.name)
                bar.update()
                continue
            page = pipeline.page(one.sketch, crop=facts["crop"], neck_splits=neck_splits)
            request = pipeline.request(page, *texts)
            pipeline.check(request, options)
        except (UserError, OSError) as error:
            done.failed[one.name] = _sentence(error)
            bar.update()
            continue
        yield _Prepared(one.name, page, request, settings, all_facts)


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}."
    return str(error)


def _sample(
    pipeline: Pipeline,
    batch: Sequence[_Prepared],
    output: Path,
    options: Options,
    done: BatchResult,
    bar: tqdm,
) -> None:
    requests = [prepared.request for prepared in batch]
    finished = pipeline.run(requests, [prepared.settings["seed"] for prepared in batch], options)
    for i, prepared in enumerate(batch):
        result = _result(prepared, finished, i)
        with whole_folder(output / prepared.name) as folder:
            write_outputs(folder, result, prepared.facts, prepared.facts["upscale"])
        done.sampled.append(prepared.name)
        if prepared.request.notices:
            done.notices[prepared.name] = prepared.request.notices
        bar.update()


def _result(prepared: _Prepared, finished: Finished, i: int) -> Result:
    one = Finished(
        finished.images[i : i + 1],
        None if finished.coarse is None else finished.coarse[i : i + 1],
        jax.tree.map(lambda x: x[:, i : i + 1], finished.trace),
    )
    return result_of(prepared.page, prepared.request, one, prepared.settings, {})


def _exists(folder: Path, expected: Mapping[str, Any]) -> bool:
    """Whether the folder holds a complete output with the expected metadata.

    Raises:
      UserError: the folder holds files that are no output.
    """
    if not folder.is_dir():
        return False
    if not {path.name for path in folder.iterdir()} <= FILES:
        raise UserError(f"The output folder {folder} holds other files; choose another --output.")
    try:
        found = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict):
        return False
    as_json = comparable(json.loads(json.dumps(dict(expected))))
    # Empty texts are not recorded, and outputs of older versions have no `neck_splits`.
    names = {*as_json, "region_prompts", "negative_prompt"}
    found = comparable({"neck_splits": NECK_SPLITS, **found})
    return all(found.get(name) == as_json.get(name) for name in names)
