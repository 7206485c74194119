"""Trained stages on devices, which sample batches and requests."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import Float, UInt32

from ragaf_jax.batch import Batch
from ragaf_jax.checkpoints.meta import check_stages_match
from ragaf_jax.errors import UserError
from ragaf_jax.nets.model import Params
from ragaf_jax.runtime.sharding import AXES, filled, put_batch, replicated
from ragaf_jax.sampling.controls.networks import Control
from ragaf_jax.sampling.controls.settings import (
    branch_scales,
    check_count,
    settings_of_sketch,
)
from ragaf_jax.sampling.loop import Finished, Images, Progress, StageRun, sample_stages
from ragaf_jax.sampling.lora.merging import AdaptedParams
from ragaf_jax.sampling.lora.settings import Lora
from ragaf_jax.sampling.micro_conditioning import (
    SETTINGS,
    checked_sizes,
    refuse_sizes,
    size_inputs,
)
from ragaf_jax.sampling.options import STAGES, Options, setting_notices
from ragaf_jax.sampling.prompts.embeddings import Embeddings
from ragaf_jax.sampling.request import Request
from ragaf_jax.sampling.sampling_config import BranchScales, TextConditioning, scales_of
from ragaf_jax.sampling.stage_sampler import StageSampler, make_stage_sampler, seed_keys
from ragaf_jax.sampling.stages import Stage


class LoadedStages:
    """One or two trained stages on devices.

    Attributes:
      stages: by number, 1 and 2.
      embeddings: textual inversions by name; see `Pipeline.load_embeddings`.
      controls: ControlNets beside their sketch branches.
    """

    embeddings: Embeddings

    def __init__(
        self,
        stage1: Stage | None = None,
        stage2: Stage | None = None,
        devices: Sequence[jax.Device] | None = None,
        per_device: int = 1,
        controls: Sequence[Control] = (),
    ):
        """Puts the parameters on the devices.

        Args:
          stage1, stage2: at least one of them.
          devices: share each batch; default: the first device.
          per_device: images that each device samples together. Values above 1 are faster on a GPU,
            and may change the last bit by rounding.
          controls: result of `load_controls` for these stages.

        Raises:
          UserError: no stage, or stages that do not fit each other.
        """
        self.embeddings = {}
        self.stages = {i: stage for i, stage in ((1, stage1), (2, stage2)) if stage is not None}
        if not self.stages:
            raise UserError(
                "No stage is given; give the workdir of Stage 1, of Stage 2 or of both."
            )
        if stage1 is not None and stage2 is not None:
            check_stages_match(stage1.meta, stage2.meta, stage1.config.data.dataset)
        if per_device < 1:
            raise UserError(f"Images per device are {per_device}; choose 1 or more.")
        self._per_device = per_device
        places = np.array(devices or jax.devices()[:1])[:, None]
        self._mesh = Mesh(places, AXES, axis_types=(AxisType.Auto,) * 2)
        self.controls = tuple(controls)
        place = replicated(self._mesh)
        trees = jax.device_put(tuple(control.params for control in controls), place)
        self._params: dict[int, Params] = {
            i: {**jax.device_put(stage.params, place), "controls": trees}
            for i, stage in self.stages.items()
        }
        self._adapted = AdaptedParams(self._params)
        self._samplers: dict[tuple[int, str], StageSampler] = {}

    @property
    def batch_size(self) -> int:
        """The number of images that are sampled together."""
        return self._mesh.size * self._per_device

    @property
    def leading(self) -> Stage:
        """The last stage, which determines defaults, vocabulary and regions."""
        return self.stages[max(self.stages)]

    @property
    def has_ragaf(self) -> bool:
        """Whether there is a Stage 2 with RAGAF."""
        return 2 in self.stages and self.stages[2].model.ragaf is not None

    def by_ragaf(self, options: Options) -> bool:
        """Whether region prompts act by RAGAF, else by restricted cross-attention.

        Raises:
          UserError: `region_method` is "ragaf" and no stage with RAGAF is used.
        """
        used = self.has_ragaf and 2 in STAGES[options.stages]
        if options.region_method == "ragaf" and not used:
            raise UserError(
                "region_method is 'ragaf' and no Stage 2 with RAGAF is used "
                f"(stages={options.stages!r}); choose 'attention', or use such a stage."
            )
        return used and options.region_method != "attention"

    def with_loras(self, options: Options, loras: Sequence[Lora]) -> Options:
        """The options with these LoRAs, whose files are read; raises as `load_lora`."""
        return dataclasses.replace(options, loras=self._adapted.load(loras))

    @property
    def reads_sizes(self) -> bool:
        """Whether the UNet reads the sizes of the image, as SDXL's."""
        return self.leading.model.unet.config.addition_embed_type is not None

    def with_sizes(self, options: Options, sizes: Mapping[str, str | None]) -> Options:
        """The options with `micro_conditioning.SETTINGS` of these; others stay.

        Raises:
          UserError: as `checked_sizes`, or this model does not read sizes.
        """
        given = {name: x for name, x in sizes.items() if x is not None}
        found = checked_sizes({name: getattr(options, name) for name in SETTINGS} | given)
        if not self.reads_sizes:
            refuse_sizes(found)
        return dataclasses.replace(options, **found)

    def setting_notices(self, settings: Mapping[str, Any]) -> list[str]:
        """Unexpected effects of settings of these stages, as `options.setting_notices`."""
        reads_guidance = self.leading.model.unet.config.time_cond_proj_dim is not None
        return setting_notices(settings, reads_guidance)

    def lora_notices(self, options: Options) -> list[str]:
        """What each LoRA changes and how it was trained, such as trigger words; a sentence each."""
        return self._adapted.notices(options.loras)

    def steps(self, options: Options, count: int = 1, from_image: bool = False) -> int:
        """The number of denoising steps of `run`; requests of one batch share their steps.

        Args:
          options: of all requests.
          count: number of requests.
          from_image: whether they start from images.
        """
        steps = sum(self._stage_steps(options, from_image).values())
        return -(-count // self.batch_size) * steps

    def _stage_steps(self, options: Options, from_image: bool) -> dict[int, int]:
        """The number of denoising steps of each stage; only the first may start from noise."""
        found: dict[int, int] = {}
        for i in STAGES[options.stages]:
            strength = options.strength if from_image or found else 1.0
            sampling = self._sampler(i, options.sampler).sampling
            found[i] = int(sampling.timestep_grid(options.steps, strength, options.sigmas).steps)
        return found

    def run(
        self,
        requests: Sequence[Request],
        seeds: Sequence[int],
        options: Options,
        images: Images | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[Finished]:
        """Samples several requests in batches of `batch_size`; one result per request.

        Args:
          requests, seeds, options, images: as in `stream`.
          progress: called after each of the `steps`.
        """
        results: dict[int, Finished] = {}
        for some in self._batches(requests, self.by_ragaf(options)):
            starts = None if images is None else images[some]
            every = None if progress is None else 1
            given = [requests[i] for i in some], [seeds[i] for i in some], options, starts, every
            for event in self.stream(*given, preview=False):
                if isinstance(event, Finished):
                    parts = (event.part(slice(i, i + 1)) for i in range(len(some)))
                    results |= dict(zip(some, parts, strict=True))
                elif progress is not None:
                    progress(event)
        return [results[i] for i in range(len(requests))]

    def _batches(self, requests: Sequence[Request], by_ragaf: bool) -> Iterator[list[int]]:
        """The places of requests that are sampled together.

        Texts of one batch have equal numbers of windows, so that no image depends on other texts.
        """
        places: dict[Any, list[int]] = {}
        for i, one in enumerate(requests):
            texts = one.regional(by_ragaf), one.without_region_text
            key = jax.tree.structure(texts), *(x.shape for x in jax.tree.leaves(texts))
            places.setdefault(key, []).append(i)
        for alike in places.values():
            for i in range(0, len(alike), self.batch_size):
                yield alike[i : i + self.batch_size]

    def stream(
        self,
        requests: Sequence[Request],
        seeds: Sequence[int],
        options: Options,
        images: Images | None = None,
        every: int | None = None,
        *,
        preview: bool = True,
    ) -> Iterator[Progress | Finished]:
        """Samples several requests as one batch; closing the iterator cancels.

        Args:
          requests: as `make_request` returns them, with texts of equal numbers of windows.
          seeds: one per request.
          options: of all requests.
          images: to start from, one per request, at the model's size.
          every, preview: as in `sample_stages`.

        Yields:
          `Progress`, and at the end `Finished`.
        """
        by_ragaf = self.by_ragaf(options)
        batch, text, plain, shown = jax.tree.map(
            lambda *x: np.concatenate(x),
            *(
                (
                    one.batch,
                    one.regional(by_ragaf),
                    one.without_region_text,
                    one.control_images,
                )
                for one in requests
            ),
        )
        if self.reads_sizes:
            sizes = size_inputs(dataclasses.asdict(options), batch.labels.shape[1:])
            batch = batch._replace(sizes=np.tile(sizes, (len(requests), 1)))
        partly = any(one.has_region_text and not one.all_regions_have_text for one in requests)
        regional = text.with_base(options.region_base_ratio), plain if partly else None
        texts: dict[int, tuple[TextConditioning, TextConditioning | None]] = {
            1: (plain, None) if by_ragaf else regional,
            2: regional,
        }
        skipped = functools.partial(self._with_skip, options.clip_skip)
        texts = {
            i: (skipped(i, one), None if other is None else skipped(i, other))
            for i, (one, other) in texts.items()
        }
        keys = {i: seed_keys(np.array(seeds, np.uint32), i) for i in STAGES[options.stages]}
        given = texts, images, every, shown
        yield from self._sample(batch, keys, options, *given, preview=preview)

    def _with_skip(self, skip: int | None, number: int, text: TextConditioning) -> TextConditioning:
        """The texts with `clip_skip`, unless Stage `number` skips as many layers anyway."""
        stage = self.stages.get(number)
        if stage is None or skip in (None, stage.model.text_encoder.clip_skip):
            return text
        skips = np.full(len(text.region_text_ids), skip, np.int32)
        negative, positive = (x._replace(skip=skips) for x in (text.negative, text.positive))
        return text._replace(negative=negative, positive=positive)

    def sample_batch(
        self, batch: Batch, keys: Mapping[int, UInt32[np.ndarray, "b words"]], options: Options
    ) -> Finished:
        """Samples a batch with its captions as uncropped images, without RAGAF's trace.

        Args:
          batch: examples; their images are not used.
          keys: `batch_keys` by stage.
          options: of all examples.
        """
        texts = dict.fromkeys(STAGES[options.stages], (None, None))
        uncropped = batch._replace(sizes=None)  # as samples for users by default
        *_, finished = self._sample(uncropped, keys, options, texts, trace=False)
        assert isinstance(finished, Finished)
        return finished

    def _sample(
        self,
        batch: Batch,
        keys: Mapping[int, UInt32[np.ndarray, "b words"]],
        options: Options,
        texts: Mapping[int, tuple[TextConditioning | None, TextConditioning | None]],
        images: Images | None = None,
        every: int | None = None,
        control_images: Sequence[Float[np.ndarray, "b h w 3"]] = (),
        **choices: bool,
    ) -> Iterator[Progress | Finished]:
        """`sample_stages` on the devices; examples are repeated to fill all devices."""
        count = len(batch.text.tokens)
        shown = tuple(control_images) or (batch.sketch,) * len(self.controls)
        batch, shown = self._shared((batch, shown))
        runs, steps = [], self._stage_steps(options, images is not None)
        for i in STAGES[options.stages]:
            given = self._shared((keys[i], *texts[i]))
            sampler = self._sampler(i, options.sampler)
            branches = self._branches(i, options, steps[i])
            run = StageRun(i, sampler, self._adapted.of_stage(i, options.loras), *given)
            run = run._replace(branches=branches, controls=shown)
            runs.append(run._replace(region_steps=round(options.region_end * steps[i])))
        scales = scales_of(dataclasses.asdict(options), self.leading.model.unet.config)
        starts = None if images is None else self._shared(images)
        settings = scales, options.steps, options.strength, starts, every
        for event in sample_stages(runs, batch, *settings, sigmas=options.sigmas, **choices):
            if isinstance(event, Finished):
                yield event.part(slice(count))
            else:
                yield event._replace(preview=jax.tree.map(lambda x: x[:count], event.preview))

    def _branches(self, number: int, options: Options, steps: int) -> tuple[BranchScales, ...]:
        """The scales of the sketch branch and of all controls in the steps of a stage.

        Raises:
          UserError: settings of another number of controls, or levels of another network.
        """
        settings = options.controls or [control.settings for control in self.controls]
        check_count(settings, len(self.controls))
        both = settings_of_sketch(dataclasses.asdict(options)), *settings
        residuals = self.stages[number].model.control.residuals
        return tuple(branch_scales(one, residuals, steps) for one in both)

    def _sampler(self, number: int, sampler: str) -> StageSampler:
        key = number, sampler
        if key not in self._samplers:
            stage = self.stages[number]
            networks = tuple(control.network for control in self.controls)
            model = dataclasses.replace(stage.model, controls=networks)
            made = make_stage_sampler(model, stage.sampling_config(sampler))
            self._samplers[key] = made.on_mesh(self._mesh)
        return self._samplers[key]

    def _shared(self, tree: Any) -> Any:
        """The examples, sharded over the devices."""
        return put_batch(self._mesh, filled(tree, self._mesh.size))


def joined(results: Sequence[Finished]) -> Finished:
    """Results of one request with several seeds as one, in order."""
    stages = ((one.images, one.coarse) for one in results)
    images, coarse = jax.tree.map(lambda *x: np.concatenate(x), *stages)
    trace = jax.tree.map(lambda *x: np.concatenate(x, 1), *(one.trace for one in results))
    return Finished(images, coarse, trace)
