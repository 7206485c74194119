"""The pipeline: from sketches and prompts to images."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np
from jaxtyping import Float, UInt8

from ragaf_jax.checkpoints.choice import NEWEST, choices_of_stages
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, Window, check_same_size, cut, letterboxed
from ragaf_jax.graph.prepare import page_scale, page_size
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.images import as_grey, read_images
from ragaf_jax.runtime.compilation_cache import keep_compiled
from ragaf_jax.sampling.controls.networks import WeightFiles, load_controls, with_vae
from ragaf_jax.sampling.controls.settings import ControlPlace, checked_controls
from ragaf_jax.sampling.loaded_stages import LoadedStages, joined
from ragaf_jax.sampling.loop import Images, Progress
from ragaf_jax.sampling.options import (
    STAGES,
    OptionArguments,
    Options,
    check_count,
    check_seed,
    make_options,
)
from ragaf_jax.sampling.prompts.embeddings import read_embeddings
from ragaf_jax.sampling.recorded import file_facts
from ragaf_jax.sampling.request import (
    Request,
    SketchPage,
    find_regions,
    make_request,
    recorded_settings,
)
from ragaf_jax.sampling.results import Result, result_of
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.sketch_input import SketchInput, read_sketch

# A file, its `SketchInput`, a grey page as in `Pipeline.page`, or any other grey image.
Sketch = str | Path | SketchInput | UInt8[np.ndarray, "h w"]
# A file, or its pixels.
Image = str | Path | UInt8[np.ndarray, "_ _ 3"]


class Pipeline(LoadedStages):
    """One or two trained stages that sample images from sketches and texts.

    Attributes:
      vae: the VAE that replaces the stages' own, or None.
    """

    vae: WeightFiles | None = None

    @classmethod
    def restore(
        cls,
        stage1: str | Path | None = None,
        stage2: str | Path | None = None,
        *,
        dtype: str | None = None,
        devices: Sequence[jax.Device] | None = None,
        per_device: int = 1,
        checkpoint: str = NEWEST,
        vae: str | Path | None = None,
        controls: Sequence[str | Path | ControlPlace] = (),
    ) -> "Pipeline":
        """Restores stages from their workdirs, with averaged parameters.

        From here on, compiled programs are cached on disk: see `keep_compiled`.

        Args:
          stage1, stage2: workdirs; one may be left out.
          dtype: as in `Stage.restore`.
          devices, per_device: as in `LoadedStages`.
          checkpoint: "newest", "best" or a step, for both stages; or Stage 1's and Stage 2's
            separated by a comma, such as "best,4500".
          vae: a VAE in place of the stages' own; see `open_vae`.
          controls: folders, files or hub ids of ControlNets beside the sketch branch, perhaps with
            default settings.

        Raises:
          UserError: a missing or incomplete checkpoint; stages that do not fit each other, such as
            stages of different image sizes; or a VAE or ControlNet of another model.
        """
        choices = choices_of_stages(checkpoint, "checkpoint")
        keep_compiled()
        stages = {
            i: Stage.restore(Path(workdir).expanduser(), i, dtype, choices[i])
            for i, workdir in ((1, stage1), (2, stage2))
            if workdir is not None
        }
        files = None
        if stages and vae is not None:
            changed, files = with_vae(list(stages.values()), vae)
            stages = dict(zip(stages, changed, strict=True))
        loaded = load_controls(controls, list(stages.values())) if stages else ()
        pipeline = cls(stages.get(1), stages.get(2), devices, per_device, loaded)
        pipeline.vae = files
        return pipeline

    @property
    def page_size(self) -> int:
        """Side of square pages on which regions are found, px; the same as for training records."""
        return page_size(self.leading.model.image_size)

    def read(
        self,
        grey: UInt8[np.ndarray, "h w"],
        *,
        crop: bool = True,
        width: int | None = None,
        height: int | None = None,
        letterbox: bool = False,
    ) -> SketchInput:
        """Places a grey image of a sketch on a page.

        Args:
          grey: of any size, dark on light or light on dark.
          crop: whether it is cropped to its ink where that is much smaller than the page, because
            training sketches fill their pages: see `sketch_input.ink_window`.
          width, height: of the image to sample, px; by default of the sketch's proportions and
            about the area of the model's training images. The sketch is centred on white paper.
          letterbox: whether a side that is not given is the model's, so that the image is square.

        Raises:
          UserError: a size that the model cannot sample; see `framing.Sizes`.
        """
        size = self.leading.model.sizes.chosen(grey.shape, width, height, letterbox)
        return read_sketch(grey, size, crop, page_scale(size))

    def page(
        self,
        sketch: Sketch,
        *,
        crop: bool = True,
        width: int | None = None,
        height: int | None = None,
        letterbox: bool = False,
        neck_splits: int | float = NECK_SPLITS,
    ) -> SketchPage:
        """Reads a sketch and finds its regions.

        Args:
          sketch: an image file; its `SketchInput`; a grey page of the size of the image times
            `graph.prepare.page_scale`, such as a square of `page_size`, paper 255 and ink 0, which
            is used unchanged; or any other grey image.
          crop, width, height, letterbox: as in `read`. A `SketchInput` has its size already:
            another one is an error, and `crop` and `letterbox` have no effect.
          neck_splits: how readily areas are split at narrow openings, 0 to 1000. With 0, only
            closed outlines separate regions; 1 as in training; larger values split more.

        Raises:
          UserError: an unreadable image, a size that the model cannot sample, or `neck_splits` out
            of its range.
        """
        if isinstance(sketch, SketchInput):
            check_same_size(sketch.size, width, height)
            given = sketch
        else:
            grey = as_grey(sketch)
            framing = {"width": width, "height": height, "letterbox": letterbox}
            size = self.leading.model.sizes.chosen(grey.shape, **framing)
            if grey is sketch and grey.shape == tuple(page_scale(size) * side for side in size):
                given = SketchInput(grey, grey, None, size)
            else:
                given = self.read(grey, crop=crop, **framing)
        return find_regions(given, self.leading, neck_splits)

    def request(
        self,
        page: SketchPage,
        prompt: str,
        region_prompts: Mapping[int, str] | None = None,
        negative_prompt: str = "",
        control_images: Sequence[UInt8[np.ndarray, "_ _ 3"] | None] = (),
        region_negative_prompts: Mapping[int, str] | None = None,
    ) -> Request:
        """The inputs of the networks for one image: `make_request` with this model's sizes.

        Args:
          control_images: as in a call.

        Raises:
          UserError: more images than controls, or as `make_request`.
        """
        if len(control_images) > len(self.controls):
            raise UserError(
                f"There are {len(control_images)} control images and {len(self.controls)} "
                "ControlNets; give at most one for each, in their order."
            )
        both = region_prompts, region_negative_prompts
        wanted, excluded = ({} if texts is None else texts for texts in both)
        texts = prompt, wanted, negative_prompt, excluded
        request = make_request(page, *texts, self.leading, self.embeddings)
        given = [*control_images, *[None] * (len(self.controls) - len(control_images))]
        shown = (
            request.batch.sketch if image is None else self._control_image(image, page)
            for image in given
        )
        return request._replace(control_images=tuple(shown))

    def _control_image(
        self, image: UInt8[np.ndarray, "image_h image_w 3"], page: SketchPage
    ) -> Float[np.ndarray, "1 h w 3"]:
        """An image for a ControlNet, cropped and placed like the sketch, on black."""
        cropped = image if page.crop is None else cut(image, page.crop)
        placed = letterboxed(cropped, page.size, paper=0)
        return np.asarray(placed[None], np.float32) / 255

    def load_embeddings(self, *paths: str | Path) -> list[str]:
        """Loads textual inversions, which prompts then use by their names; replaces earlier ones.

        Args:
          *paths: as in `read_embeddings`.

        Returns:
          The reason for each file of a folder that is skipped.

        Raises:
          UserError: as `read_embeddings`.
        """
        widths = self.leading.model.text_encoder.config.widths
        self.embeddings, skipped = read_embeddings(paths, widths)
        return skipped

    def options(self, **arguments: Unpack[OptionArguments]) -> Options:
        """The options of a call, with defaults from the last stage's config; see `Options`.

        Raises:
          UserError: a value out of its range, a stage that this pipeline does not have, or a LoRA
            that is damaged or belongs to other networks.
        """
        config = self.leading.config
        default = "both" if len(self.stages) == 2 else str(max(self.stages))
        controls = checked_controls(arguments.get("controls"))
        controls = controls or tuple(control.settings for control in self.controls)
        given = {**arguments, "controls": controls}
        options = make_options(config.sample.to_dict(), given, config.diffusion.steps, default)
        for number in STAGES[options.stages]:
            if number not in self.stages:
                raise UserError(
                    f"stages is {options.stages!r} and the workdir of Stage {number} is missing; "
                    f"give --stage{number}, or choose stages={default!r}."
                )
            self._sampler(number, options.sampler)
            self._branches(number, options, options.steps)  # refuses settings that do not fit
            layers = self.stages[number].model.text_encoder.config.num_hidden_layers
            if options.clip_skip is not None and options.clip_skip >= layers:
                raise UserError(
                    f"clip_skip is {options.clip_skip}; choose 0 to {layers - 1}, because the text "
                    "encoder has no more layers to skip."
                )
        options = self.with_sizes(options, {})  # refuses sizes that the UNet does not read
        self.by_ragaf(options)  # refuses a method that needs RAGAF
        self.steps(options)  # refuses combinations of sampler, sigmas, steps and strength
        return self.with_loras(options, options.loras)

    def __call__(
        self,
        sketch: Sketch | SketchPage,
        prompt: str,
        region_prompts: Mapping[int, str] | None = None,
        *,
        negative_prompt: str = "",
        region_negative_prompts: Mapping[int, str] | None = None,
        seed: int = 0,
        count: int = 1,
        image: Image | None = None,
        control_images: Sequence[Image | None] = (),
        crop: bool = True,
        width: int | None = None,
        height: int | None = None,
        letterbox: bool = False,
        progress: Callable[[Progress], None] | None = None,
        **arguments: Unpack[OptionArguments],
    ) -> Result:
        """Samples one sketch, once or several times.

        Args:
          sketch: as in `page`, or a result of `page`, with edited regions or not.
          prompt: may be empty.
          region_prompts: by region number; see `make_request`.
          negative_prompt: may be empty.
          region_negative_prompts: by region number.
          seed: in 0 … 2³² − 1. The same seed and settings give the same image.
          count: number of images; their seeds are seed, seed + 1 …
          image: for the first stage to start from instead of noise, noised to `strength`. It has
            the sketch's proportions, and is cropped and placed on white paper like the sketch.
          control_images: RGB images of the ControlNets, in their order, with the sketch's
            proportions. None and missing ones: the sketch, ink white on black. The settings of the
            result have paths and hashes of images that are files, and nothing of arrays.
          crop, width, height, letterbox: as in `page`, also on a result of `page`.
          progress: called after each of the `steps`, without a preview; it changes no image.
          **arguments: fields of `Options`.

        Raises:
          UserError: a setting out of its range, an unreadable sketch, or texts that do not fit.
        """
        options = self.options(**arguments)
        check_count(count)
        check_seed(seed)
        seeds = [seed + i for i in range(count)]
        check_seed(seeds[-1])
        framing = {"crop": crop, "width": width, "height": height, "letterbox": letterbox}
        start = time.perf_counter()
        placed = isinstance(sketch, SketchPage | SketchInput)
        grey: Any = sketch if placed else as_grey(sketch)
        shape, file = (None, None) if placed else (grey.shape, None if grey is sketch else sketch)
        begun, *_ = read_images([image], shape, file)
        shown = read_images(control_images, shape, file)
        if isinstance(sketch, SketchPage):
            check_same_size(sketch.size, width, height)
            page = sketch
        elif file is not None:
            page = self.page(self.read(grey, **framing))
        else:
            page = self.page(sketch, **framing)
        texts = prompt, region_prompts, negative_prompt
        request = self.request(page, *texts, shown, region_negative_prompts)
        ready = time.perf_counter()
        images = None if begun is None else self.starts([begun] * count, page.size, page.crop)
        finished = joined(self.run([request] * count, seeds, options, images, progress))
        done = time.perf_counter()
        settings = recorded_settings(
            *texts, region_negative_prompts, seed, count, options, request.embeddings
        )
        settings |= file_facts({"image": _file(image)}) | self.weight_facts(control_images)
        notices = self.setting_notices(settings)
        seconds = {"regions": ready - start, "sampling": done - ready}
        start_image = None if images is None else images[0]
        return result_of(page, request, finished, settings, notices, seconds, start_image)

    def weight_facts(self, images: Sequence[Image | None] = ()) -> dict[str, Any]:
        """Entries of metadata.json about the VAE and the ControlNets beside the stages.

        Args:
          images: of the ControlNets; those that are files are recorded.
        """
        padded = [*images, *[None] * len(self.controls)]
        vae = {} if self.vae is None else {"vae": self.vae.where, "vae_sha256": self.vae.sha256}
        networks = [
            {**control.files._asdict(), **file_facts({"image": _file(image)})}
            for control, image in zip(self.controls, padded, strict=False)
        ]
        return {**vae, **({"control_networks": networks} if networks else {})}

    def starts(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], size: Size, crop: Window | None = None
    ) -> Images:
        """Starting images of this height and width, cropped and placed like their sketch."""
        cropped = images if crop is None else [cut(image, crop) for image in images]
        return np.stack([letterboxed(image, size) for image in cropped])


def _file(image: Any) -> str | Path | None:
    return image if isinstance(image, str | Path) else None
