"""Samples the images of a session: values of the page at each step, and files at the end."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ragaf_jax.demo.session import Session
from ragaf_jax.errors import UserError
from ragaf_jax.figures.lettering import Rgb, enlarge
from ragaf_jax.sampling.loaded_stages import joined
from ragaf_jax.sampling.loop import Finished, Images
from ragaf_jax.sampling.options import check_count, check_seed
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.request import SketchPage, recorded_settings
from ragaf_jax.sampling.results import Result, result_of
from ragaf_jax.sampling.sketch_notices import sketch_notices

SHOWN = 256  # px, least side of shown images

STARTING = "Compiling: usually up to a minute the first time …"


class Shown(NamedTuple):
    """Content of the page during sampling and at the end.

    Attributes:
      status: progress, at the end notices, in Markdown.
      images: enlarged images of the last stage so far, and a preview.
      coarse: the same for Stage 1, where Stage 2 follows.
      attention: at the end, heat maps of the first image.
      result: at the end.
    """

    status: str
    images: Sequence[Rgb] = ()
    coarse: Sequence[Rgb] = ()
    attention: Rgb | None = None
    result: Result | None = None


def generate(
    pipeline: Pipeline,
    session: Session,
    prompt: str,
    negative_prompt: str,
    seed: int | None,
    count: int = 1,
    **choices: Any,
) -> Iterator[Shown]:
    """Samples images and yields the content of each step; closing the iterator cancels.

    Args:
      pipeline: the stages.
      session: sketch and region prompts.
      prompt, negative_prompt, seed, count: as in `Pipeline.__call__`.
      **choices: fields of `Options`.

    Raises:
      UserError: there is no sketch, or a setting is out of its range.
    """
    page = session.page
    if page is None:
        raise UserError("There is no sketch yet; draw one or upload an image.")
    check_seed(seed)
    check_count(count)
    assert seed is not None
    seeds = [seed + i for i in range(count)]
    check_seed(seeds[-1])
    options = pipeline.options(**choices)
    texts = prompt, session.prompts, negative_prompt
    request = pipeline.request(page, *texts, region_negative_prompts=session.negatives)
    yield Shown(STARTING)
    start, results = time.perf_counter(), list[Finished]()
    for i in range(0, count, pipeline.batch_size):
        some = seeds[i : i + pipeline.batch_size]
        place = f"Image {i + 1} of {count}: " if count > 1 else ""
        coarse: list[Rgb] = []
        for event in pipeline.stream([request] * len(some), some, options, every=1):
            if isinstance(event, Finished):
                results.append(event)
                break
            before, preview = _shown_so_far(results), _enlarged(event.preview)
            if event.stage == 1:
                coarse = preview if options.stages == "both" else []
            yield Shown(
                f"{place}Stage {event.stage}, step {event.step} of {event.steps}",
                [*before.images, *preview],
                [*before.coarse, *coarse],
            )
    seconds = time.perf_counter() - start
    settings = recorded_settings(
        *texts, session.negatives, seed, count, options, request.embeddings
    )
    settings |= pipeline.weight_facts()
    notices = pipeline.setting_notices(settings)
    result = result_of(page, request, joined(results), settings, notices, {"sampling": seconds})
    yield _shown_so_far(results)._replace(
        status=" ".join([f"Done in {seconds:.1f} s.", *_without_flags(page, result.notices)]),
        attention=result.attention_maps,
        result=result,
    )


def write_archive(result: Result, folder: Path) -> Path:
    """All files of a result, as `Result.save` writes them, in a .zip in this folder."""
    name = f"ragaf_seed{result.settings['seed']}"
    result.save(folder / name)
    return Path(shutil.make_archive(str(folder / name), "zip", folder, name))


def _without_flags(page: SketchPage, notices: Sequence[str]) -> list[str]:
    """The notices of a result, those on the sketch without flags of the command."""
    with_flags = sketch_notices(page.given)
    others = (notice for notice in notices if notice not in with_flags)
    return [*sketch_notices(page.given, flags=False), *others]


def _shown_so_far(results: Sequence[Finished]) -> Shown:
    if not results:
        return Shown("")
    done = joined(results)
    return Shown("", _enlarged(done.images), _enlarged(done.coarse))


def _enlarged(images: Images | None) -> list[Rgb]:
    return [] if images is None else [enlarge(image, SHOWN) for image in images]
