"""Sketch and prompt in, pictures out: the trained stages behind one call."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import UInt8

from ragaf_jax.compilation_cache import keep_compiled
from ragaf_jax.errors import UserError
from ragaf_jax.graph.prepare import page_size
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.images import Window, check_same_aspect, cut, pad_to_square, read_grey
from ragaf_jax.nets.model import Params
from ragaf_jax.sampling.drawn import Finished, Pictures, Progress, Result, joined, result_of
from ragaf_jax.sampling.generate import Drawing
from ragaf_jax.sampling.options import STAGES, Asked, Options, check_count, check_seed, chosen
from ragaf_jax.sampling.parts import Parts, make_parts
from ragaf_jax.sampling.request import (
    SketchPage,
    Told,
    find_regions,
    recorded_settings,
    tell,
)
from ragaf_jax.sampling.stages import Stage, settings_of
from ragaf_jax.sketch_input import SketchInput, read_sketch
from ragaf_jax.training.setup import check_stages_match
from ragaf_jax.training.sharding import AXES, filled, put_batch, replicated

# A file, what was read of one, a page as `Pipeline.page` makes it, or any grey image of a sketch.
Sketch = str | Path | SketchInput | UInt8[np.ndarray, "h w"]


class Pipeline:
    """One or two trained stages, ready to draw."""

    def __init__(
        self,
        stage1: Stage | None = None,
        stage2: Stage | None = None,
        devices: Sequence[jax.Device] | None = None,
        per_device: int = 1,
    ):
        """Puts the parameters on the devices.

        Args:
          stage1, stage2: at least one of them.
          devices: that share batches; the first of all by default.
          per_device: pictures that each draws together. More than one is faster on a GPU, and may
            round the last bit otherwise than one does.

        Raises:
          UserError: no stage, or stages that do not fit each other.
        """
        self.stages = {i: stage for i, stage in ((1, stage1), (2, stage2)) if stage is not None}
        if not self.stages:
            raise UserError("There is no stage to draw with; give the workdir of one, or of both.")
        if stage1 is not None and stage2 is not None:
            check_stages_match(stage1.meta, stage2.meta, stage1.config.data.dataset)
        if per_device < 1:
            raise UserError(f"Pictures per device are {per_device}; choose 1 or more.")
        self._per_device = per_device
        places = np.array(devices or jax.devices()[:1])[:, None]
        self._mesh = Mesh(places, AXES, axis_types=(AxisType.Auto,) * 2)
        self._params: dict[int, Params] = {
            i: jax.device_put(stage.params, replicated(self._mesh))
            for i, stage in self.stages.items()
        }
        self._parts: dict[tuple[int, str], Parts] = {}

    @classmethod
    def restore(
        cls,
        stage1: str | Path | None = None,
        stage2: str | Path | None = None,
        *,
        dtype: str | None = None,
        devices: Sequence[jax.Device] | None = None,
        per_device: int = 1,
    ) -> "Pipeline":
        """From the workdirs of the stages alone; their averaged parameters.

        What is compiled from now on is kept on disk: see `keep_compiled`.

        Args:
          stage1, stage2: one may be left out.
          dtype: of the computation and of what is kept, "float32" or "bfloat16"; by default as the
            stages were trained.
          devices, per_device: as in `Pipeline`.

        Raises:
          UserError: no whole checkpoint in one of them, or stages that do not fit each other, as
            those of different image sizes.
        """
        keep_compiled()
        one, two = (
            None if workdir is None else Stage.restore(Path(workdir).expanduser(), i, dtype)
            for i, workdir in ((1, stage1), (2, stage2))
        )
        return cls(one, two, devices, per_device)

    @property
    def together(self) -> int:
        """How many pictures are drawn together."""
        return self._mesh.size * self._per_device

    @property
    def leading(self) -> Stage:
        """The stage whose defaults, vocabulary and regions count: the last."""
        return self.stages[max(self.stages)]

    @property
    def page_size(self) -> int:
        """Side of the pages on which regions are found: that of the training records' pages."""
        return page_size(self.leading.model.image_size)

    def page(
        self, sketch: Sketch, *, crop: bool = True, neck_splits: int | float = NECK_SPLITS
    ) -> SketchPage:
        """A sketch and its regions.

        Args:
          sketch: a file of any size and polarity; what `read_sketch` returned of one; a grey page
            of `page_size`, paper 255 and ink 0, which is taken as it is; or any other grey image.
          crop: whether a file or grey image is cropped to its ink where that is much smaller than
            the page, because training sketches fill their pages: see `sketch_input.ink_window`.
          neck_splits: how eagerly areas are split at narrow openings, 0 to 1000. With 0, only
            closed outlines separate regions; 1 as in training; more splits more.

        Raises:
          UserError: no image that can be read, or `neck_splits` out of its range.
        """
        if isinstance(sketch, SketchInput):
            given = sketch
        elif isinstance(sketch, np.ndarray) and sketch.shape == (self.page_size,) * 2:
            given = SketchInput(sketch, sketch, None)
        else:
            grey = sketch if isinstance(sketch, np.ndarray) else read_grey(sketch)
            given = read_sketch(grey, self.page_size, crop)
        # The field is younger than some checkpoints.
        kind = self.leading.config.data.get("regions", "strokes")
        return find_regions(given, self.leading.model, kind, neck_splits)

    def tell(
        self,
        drawing: SketchPage,
        prompt: str,
        region_prompts: Mapping[int, str] | None = None,
        negative_prompt: str = "",
    ) -> Told:
        """What the networks are told of one request; `request.tell` with this model's sizes."""
        stage = self.leading
        words = prompt, region_prompts or {}, negative_prompt
        return tell(drawing, *words, stage.model, stage.tokenizer)

    @property
    def binds_words(self) -> bool:
        """Whether regions can be given words: that takes a Stage 2 with RAGAF."""
        return 2 in self.stages and self.stages[2].model.ragaf is not None

    def check(self, told: Told, options: Options) -> None:
        """Refuses words for regions where nothing binds words to regions.

        Raises:
          UserError: it says what to do instead.
        """
        if told.spoken and not (self.binds_words and 2 in STAGES[options.stages]):
            raise UserError(
                "Regions are given words, which takes a Stage 2 with RAGAF, and this drawing has "
                f"none (stages={options.stages!r}); put the words into the prompt, or let such a "
                "Stage 2 draw."
            )

    def options(self, **asked: Unpack[Asked]) -> Options:
        """Choices as Stage 2's config has them, but for what is asked; see `Options`.

        Raises:
          UserError: a value out of its range, or a stage that this pipeline does not have.
        """
        config = self.leading.config
        usual = "both" if len(self.stages) == 2 else str(max(self.stages))
        options = chosen(config.sample.to_dict(), asked, config.diffusion.steps, usual)
        for number in STAGES[options.stages]:
            if number not in self.stages:
                raise UserError(
                    f"Stage {number} is to draw and its workdir was not given; give --stage{number}"
                    f", or choose stages={usual!r}."
                )
            self._part(number, options.sampler)
        return options

    def __call__(
        self,
        sketch: Sketch | SketchPage,
        prompt: str,
        region_prompts: Mapping[int, str] | None = None,
        *,
        negative_prompt: str = "",
        seed: int = 0,
        count: int = 1,
        image: UInt8[np.ndarray, "image_h image_w 3"] | None = None,
        crop: bool = True,
        progress: Callable[[Progress], None] | None = None,
        **asked: Unpack[Asked],
    ) -> Result:
        """Draws one sketch, once or several times.

        Args:
          sketch: as `page` takes it, or what `page` answered, with its regions changed or not.
          prompt: may be empty.
          region_prompts: words for some regions, by their numbers; see `request.tell`.
          negative_prompt: what is not to be seen; may be empty.
          seed: in 0 … 2³² − 1. The same seed and settings give the same picture.
          count: pictures; their seeds are seed, seed + 1 …
          image: to begin from, instead of noise, in the first of the stages, noised to `strength`;
            of the sketch's proportions, and cropped and placed on a white square as the sketch is.
          crop: as in `page`; without effect on what `page` returned.
          progress: called after each of the `steps`, without a preview; it changes no image.
          **asked: fields of `Options`.

        Raises:
          UserError: a setting out of its range, a sketch that is no picture, words that do not fit.
        """
        options = self.options(**asked)
        check_count(count)
        seeds = [seed + i for i in range(count)]
        for one in seeds:
            check_seed(one)
        began = time.perf_counter()
        if isinstance(sketch, str | Path):
            grey = read_grey(sketch)
            if image is not None:
                check_same_aspect(grey.shape, image.shape)
            sketch = read_sketch(grey, self.page_size, crop)
        elif image is not None and isinstance(sketch, np.ndarray):
            check_same_aspect(sketch.shape, image.shape)
        drawing = sketch if isinstance(sketch, SketchPage) else self.page(sketch, crop=crop)
        told = self.tell(drawing, prompt, region_prompts, negative_prompt)
        ready = time.perf_counter()
        images = None if image is None else self.starts([image] * count, drawing.crop)
        finished = self.run([told] * count, seeds, options, images, progress)
        done = time.perf_counter()
        words = prompt, region_prompts, negative_prompt
        settings = recorded_settings(*words, seed, count, options)
        seconds = {"regions": ready - began, "sampling": done - ready}
        given = None if images is None else images[0]
        return result_of(drawing, told, finished, settings, seconds, given)

    def steps(self, options: Options, count: int = 1, from_image: bool = False) -> int:
        """Denoising steps that `run` makes for `count` requests, those of one batch counted once.

        Args:
          options: of all.
          count: of the requests.
          from_image: whether they begin from images.
        """
        stages = STAGES[options.stages]
        # The first stage begins from noise unless there is an image; strength 0 leaves no step.
        skipped = (len(stages) - (not from_image)) if options.strength == 0 else 0
        return -(-count // self.together) * options.steps * (len(stages) - skipped)

    def starts(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], crop: Window | None = None
    ) -> Pictures:
        """Images to begin from, at the model's size, cropped and placed as their sketch is."""
        side = self.leading.model.image_size
        shown = images if crop is None else [cut(image, crop) for image in images]
        return np.stack([pad_to_square(image, side) for image in shown])

    def run(
        self,
        told: Sequence[Told],
        seeds: Sequence[int],
        options: Options,
        images: Pictures | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Finished:
        """The images of several requests, `together` at a time.

        Args:
          told, seeds, options, images: as in `stream`.
          progress: called after each of the `steps`.
        """
        pieces: list[Finished] = []
        for i in range(0, len(told), self.together):
            some = slice(i, i + self.together)
            begun = None if images is None else images[some]
            every = None if progress is None else 1
            for event in self.stream(told[some], seeds[some], options, begun, every, preview=False):
                if isinstance(event, Finished):
                    pieces.append(event)
                elif progress is not None:
                    progress(event)
        return joined(pieces)

    def stream(
        self,
        told: Sequence[Told],
        seeds: Sequence[int],
        options: Options,
        images: Pictures | None = None,
        every: int | None = None,
        *,
        preview: bool = True,
    ) -> Iterator[Progress | Finished]:
        """Draws several requests in one go; who stops asking cancels.

        Args:
          told: what `tell` answers of each.
          seeds: of each.
          options: of all.
          images: to begin from, of each, at the model's size.
          every: tells of the progress after so many steps; None: not at all.
          preview: whether each `Progress` has one, which takes a run of the decoder.

        Yields:
          `Progress`, and at last what is `Finished`.
        """
        count = len(told)
        for one in told:
            self.check(one, options)
        given = [(one.batch, one.silent, one.wishes) for one in told]
        batch, silent, wishes = self._shared(jax.tree.map(lambda *x: np.concatenate(x), *given))
        seeds_ = self._shared(np.array(seeds, np.uint32))
        settings = settings_of(dataclasses.asdict(options))
        pictures, coarse, latents, trace = images, None, None, None
        for number in STAGES[options.stages]:
            params, parts = self._params[number], self._part(number, options.sampler)
            if number == 2:
                coarse = pictures
            if latents is None and pictures is not None:
                latents = parts.encode(params, self._shared(pictures))
            course = parts.process.course(
                options.steps, 1.0 if latents is None else options.strength
            )
            asked = seeds_, settings, course
            begun = params, batch, *asked, latents
            drawing = _placed(parts.begin(*begun, wishes if number == 2 else silent))
            plain = None
            if number == 2 and any(one.spoken and not one.all_spoken for one in told):
                plain = _placed(parts.begin(*begun, silent))
            steps = int(course.steps)
            seen = _stops(steps, every)
            for until in seen if plain is None else range(1, steps + 1):
                if plain is not None:
                    plain = parts.advance(params, plain, *asked, until, plain.walk)
                others = drawing if plain is None else plain
                drawing = parts.advance(params, drawing, *asked, until, others.walk)
                if every is not None and until in seen:
                    jax.block_until_ready(drawing.walk.x)  # else progress runs ahead of devices
                    seen_now = parts.look(params, drawing.preview) if preview else None
                    shown = None if seen_now is None else np.asarray(seen_now)[:count]
                    yield Progress(number, until, steps, shown)
            made, trace = parts.finish(params, drawing, seeds_)
            pictures, latents = np.asarray(made)[:count], drawing.walk.x
        assert pictures is not None
        if trace is not None:
            trace = jax.tree.map(lambda x: np.asarray(x)[:, :count], trace)
        yield Finished(pictures, coarse, trace)

    def _part(self, number: int, sampler: str) -> Parts:
        key = number, sampler
        if key not in self._parts:
            stage = self.stages[number]
            self._parts[key] = make_parts(number, stage.model, stage.process(sampler))
        return self._parts[key]

    def _shared(self, tree: Any) -> Any:
        """Examples on the devices."""
        return put_batch(self._mesh, filled(tree, self._mesh.size))


def _placed(drawing: Drawing) -> Drawing:
    """The drawing with all of its walk where its steps will leave it: they compile once."""
    walk = drawing.walk
    return drawing._replace(walk=walk._replace(x0=jax.device_put(walk.x0, walk.x.sharding)))


def _stops(steps: int, every: int | None) -> list[int]:
    """The steps after which progress is told of, or the last alone."""
    if steps == 0:
        return []
    return [steps] if every is None else [*range(every, steps, every), steps]
