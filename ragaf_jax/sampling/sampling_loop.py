"""From tokenized requests to images: the one loop over stages and denoising steps."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ragaf_jax.checkpoints.meta import check_stages_match
from ragaf_jax.errors import UserError
from ragaf_jax.nets.model import Params
from ragaf_jax.runtime.sharding import AXES, filled, on_mesh, put_batch, replicated
from ragaf_jax.sampling.generate import Drawing
from ragaf_jax.sampling.options import STAGES, Options
from ragaf_jax.sampling.parts import Parts, make_parts
from ragaf_jax.sampling.request import Told
from ragaf_jax.sampling.results import Finished, Pictures, Progress, joined
from ragaf_jax.sampling.stages import Stage, settings_of


class SamplingLoop:
    """One or two trained stages on their devices.

    Attributes:
      stages: by their numbers, 1 and 2.
    """

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
          per_device: images that each samples together. More than one is faster on a GPU, and may
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

    @property
    def together(self) -> int:
        """How many images are sampled together."""
        return self._mesh.size * self._per_device

    @property
    def leading(self) -> Stage:
        """The stage whose defaults, vocabulary and regions count: the last."""
        return self.stages[max(self.stages)]

    @property
    def binds_words(self) -> bool:
        """Whether regions can be given words: that takes a Stage 2 with RAGAF."""
        return 2 in self.stages and self.stages[2].model.ragaf is not None

    def check(self, told: Told, options: Options) -> None:
        """Refuses words for regions where nothing binds words to regions.

        Raises:
          UserError: with what to do instead.
        """
        if told.spoken and not (self.binds_words and 2 in STAGES[options.stages]):
            raise UserError(
                "Regions are given words, which takes a Stage 2 with RAGAF, and this drawing has "
                f"none (stages={options.stages!r}); put the words into the prompt, or let such a "
                "Stage 2 draw."
            )

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
        """Samples several requests together; leaving the iterator cancels.

        Args:
          told: what `tell` returns, of each.
          seeds: of each.
          options: of all.
          images: to begin from, of each, at the model's size.
          every: steps between two `Progress`; None: there are none.
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
            process, *functions = make_parts(number, stage.model, stage.process(sampler))
            self._parts[key] = Parts(process, *(on_mesh(self._mesh, f) for f in functions))
        return self._parts[key]

    def _shared(self, tree: Any) -> Any:
        """Examples on the devices."""
        return put_batch(self._mesh, filled(tree, self._mesh.size))


def _placed(drawing: Drawing) -> Drawing:
    """The drawing with all of its walk where its steps will leave it: they compile once."""
    walk = drawing.walk
    return drawing._replace(walk=walk._replace(x0=jax.device_put(walk.x0, walk.x.sharding)))


def _stops(steps: int, every: int | None) -> list[int]:
    """The steps after which there is progress, or the last alone."""
    if steps == 0:
        return []
    return [steps] if every is None else [*range(every, steps, every), steps]
