"""Samples many sketches on all devices, with one output folder per sketch."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ragaf_jax.errors import UserError
from ragaf_jax.figures.overview import FILE, write_overview
from ragaf_jax.figures.upscaled import SIDE
from ragaf_jax.folders import whole_folder
from ragaf_jax.framing import Size
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.images import read_grey, read_images
from ragaf_jax.sampling.command.batch_requests import BatchRequest
from ragaf_jax.sampling.options import Options, check_seed
from ragaf_jax.sampling.outputs import FILES, write_outputs
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.prompts.request_texts import embeddings_of, read_texts
from ragaf_jax.sampling.recorded import METADATA, comparable, file_facts
from ragaf_jax.sampling.request import Request, SketchPage, recorded_settings
from ragaf_jax.sampling.results import result_of


class BatchResult(NamedTuple):
    """The outcome of a batch, by names of its requests.

    Attributes:
      sampled: in this call.
      existing: before this call, from the same sketch, texts, seed, settings and checkpoints.
      failed: reasons, as sentences.
      notices: of `sampled`, where there are any.
      sizes: heights and widths of `sampled`.
    """

    sampled: list[str]
    existing: list[str]
    failed: dict[str, str]
    notices: dict[str, list[str]]
    sizes: set[Size]


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
    options: Options
    notices: list[str]


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the requests of a batch share, and the outcome so far.

    `shown` has the notices on LoRAs of `options` and of earlier requests, which are printed once.
    """

    pipeline: Pipeline
    output: Path
    options: Options
    seed: int
    facts: Mapping[str, Any]
    neck_splits: int | float
    framing: Mapping[str, Any]
    bar: tqdm
    shown: set[str]
    done: BatchResult = dataclasses.field(
        default_factory=lambda: BatchResult([], [], {}, {}, set())
    )

    def prepare(self, one: BatchRequest) -> _Prepared | None:
        """The request to sample; None if its output exists.

        Raises:
          UserError, OSError: the request fails.
        """
        own_seed = self.seed if one.seed is None else one.seed
        texts = one.prompt, one.region_prompts, one.negative_prompt, one.region_negative_prompts
        options = self.options
        if one.loras is not None:
            options = self.pipeline.with_loras(options, one.loras)
        options = self.pipeline.with_sizes(options, one.sizes)
        used, embeddings = [], self.pipeline.embeddings
        if embeddings:
            used = embeddings_of(read_texts(*texts, self.pipeline.leading, embeddings))
        shown = one.control_images
        settings = recorded_settings(*texts, own_seed, 1, options, used)
        settings |= {"neck_splits": self.neck_splits, **self.pipeline.weight_facts(shown)}
        if one.name == FILE:
            raise UserError(f"{FILE} is the name of the overview; choose another name.")
        check_seed(own_seed)
        facts = {**file_facts({"sketch": one.sketch}), **self.facts}
        grey = read_grey(one.sketch)
        own = {"width": one.width, "height": one.height}
        framing = {**self.framing, **{name: x for name, x in own.items() if x is not None}}
        crop = framing.pop("crop")
        height, width = self.pipeline.leading.model.sizes.chosen(grey.shape, **framing)
        expected = {"image_size": {"width": width, "height": height}, **settings, **facts}
        if _exists(self.output / one.name, expected):
            return None
        images = read_images(shown, grey.shape, one.sketch)
        given = self.pipeline.read(grey, crop=crop, width=width, height=height)
        page = self.pipeline.page(given, neck_splits=self.neck_splits)
        request = self.pipeline.request(page, *texts[:3], images, texts[3])
        request.regional(self.pipeline.by_ragaf(options))  # refuses too many tokens
        added = [] if one.loras is None else self.pipeline.lora_notices(options)
        notices = [notice for notice in added if notice not in self.shown]
        self.shown.update(notices)
        return _Prepared(one.name, page, request, settings, facts, options, notices)

    def sample(self, batch: Sequence[_Prepared]) -> None:
        """Samples requests of the same options together and writes their outputs."""
        requests, seeds = [x.request for x in batch], [x.settings["seed"] for x in batch]
        finished = self.pipeline.run(requests, seeds, batch[0].options)
        for i, (name, page, request, settings, facts, _, notices) in enumerate(batch):
            about = self.pipeline.setting_notices(settings)
            result = result_of(page, request, finished[i], settings, about, {})
            with whole_folder(self.output / name) as folder:
                write_outputs(folder, result, facts, facts["upscale"])
            self.done.sampled.append(name)
            self.done.sizes.add(page.size)
            if notices := [*notices, *request.notices]:
                self.done.notices[name] = notices
            self.bar.update()


def run_batch(
    pipeline: Pipeline,
    requests: Sequence[BatchRequest],
    output: Path,
    options: Options,
    seed: int,
    facts: Mapping[str, Any],
    upscale: int = SIDE,
    neck_splits: int | float = NECK_SPLITS,
    crop: bool = True,
    **size: Any,
) -> BatchResult:
    """Samples the requests whose outputs do not exist, and writes an overview of all.

    Args:
      pipeline: its devices share the requests.
      requests: with unique names.
      output: receives one folder per request, complete or not at all.
      options: of all requests, except for LoRAs and sizes of their own.
      seed: of requests without a seed.
      facts: of the stages, for metadata.json.
      upscale: as in `Result.save`.
      neck_splits, crop: of all requests, as in `Pipeline.page`.
      **size: width, height and letterbox of requests without their own, as in `Pipeline.read`.
    """
    facts, framing = {**facts, "crop": crop, "upscale": upscale}, {"crop": crop, **size}
    # Images of one batch have one size and the same options.
    batches: dict[tuple[Size, Options], list[_Prepared]] = {}
    with tqdm(total=len(requests), desc="sampling", unit=" sketches") as bar:
        shown = set(pipeline.lora_notices(options))
        run = _Run(pipeline, output, options, seed, facts, neck_splits, framing, bar, shown)
        done = run.done
        for one in requests:
            try:
                prepared = run.prepare(one)
            except (UserError, OSError) as error:
                done.failed[one.name] = _sentence(error)
                bar.update()
                continue
            if prepared is None:
                done.existing.append(one.name)
                bar.update()
                continue
            alike = prepared.page.size, prepared.options
            batch = batches.setdefault(alike, [])
            batch.append(prepared)
            if len(batch) == pipeline.batch_size:
                run.sample(batches.pop(alike))
        for batch in batches.values():
            run.sample(batch)
    complete = {*done.sampled, *done.existing}
    write_overview(output, [one.name for one in requests if one.name in complete])
    return done


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}."
    return str(error)


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
    as_json, found = comparable(json.loads(json.dumps(dict(expected)))), comparable(found)
    return all(found.get(name) == value for name, value in as_json.items())
