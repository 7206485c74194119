"""The result of a sampling call: images, regions, attention, settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ragaf_jax.figures import upscaled
from ragaf_jax.figures.attention import attention_maps
from ragaf_jax.figures.lettering import Rgb
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.graph.regions import Regions
from ragaf_jax.sampling.loop import Finished
from ragaf_jax.sampling.request import Request, SketchPage


class Result(NamedTuple):
    """n images of one sketch with r regions and t tokens, with inputs, attention and settings.

    Attributes:
      images: one per seed.
      coarse: as in `Finished`.
      sketch: the input of the networks; paper 255, ink 0.
      regions: of the sketch.
      numbers: of the regions, as in `NumberedRegions`.
      pieces: the text of each token.
      attention: of each region over the tokens, averaged over timesteps; rows sum to 1. None
        without RAGAF.
      fusion: weights α (sketch) and β (text) of each region at each of `denoising.TRACE_LEVELS`;
        they sum to 1. None without RAGAF.
      settings: all settings of the call, including defaults.
      notices: losses of sketch and texts and effects of settings, as sentences.
      seconds: by phase; "sampling" includes compilation in the first call.
      sketch_page: the sketch and its regions.
      request: the inputs of the networks.
      given: the starting image at the size of the images; None where the first stage started from
        noise.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    coarse: UInt8[np.ndarray, "n h w 3"] | None
    sketch: UInt8[np.ndarray, "h w"]
    regions: Regions
    numbers: tuple[int, ...]
    pieces: list[str]
    attention: Float[np.ndarray, "n r t"] | None
    fusion: Float[np.ndarray, "levels n r 2"] | None
    settings: dict[str, Any]
    notices: list[str]
    seconds: dict[str, float]
    sketch_page: SketchPage
    request: Request
    given: UInt8[np.ndarray, "h w 3"] | None = None

    @property
    def attention_maps(self) -> Rgb | None:
        """Heat maps of the first image; None without RAGAF."""
        if self.attention is None or self.fusion is None:
            return None
        return attention_maps(
            self.sketch_page.page,
            self.regions.labels,
            attention=self.attention[0],
            pieces=self.pieces,
            fusion=self.fusion[:, 0].mean(0),
            numbers=self.numbers,
            texts=self.request.text_ids,
        )

    def save(
        self,
        folder: str | Path,
        facts: Mapping[str, Any] | None = None,
        upscale: int = upscaled.SIDE,
    ) -> Path:
        """Writes all files of the command `ragaf_jax.sample`, or none after an error.

        Args:
          folder: is created; an earlier output in it is replaced.
          facts: additional entries of metadata.json.
          upscale: longer side of the upscaled image, px; it is not written unless it is larger than
            that of the images. 0: none.

        Returns:
          The folder.

        Raises:
          UserError: the folder holds other files or cannot be written, or `upscale` is invalid.
        """
        from ragaf_jax.sampling.outputs import FILES, write_outputs  # it imports this module

        upscaled.check_upscale(upscale)
        output = Path(folder).expanduser().resolve()
        check_writable(output, FILES)
        with whole_folder(output) as partial:
            write_outputs(partial, self, facts or {}, upscale)
        return output


def result_of(
    page: SketchPage,
    request: Request,
    finished: Finished,
    settings: dict[str, Any],
    notices: Sequence[str],
    seconds: dict[str, float],
    given: UInt8[np.ndarray, "h w 3"] | None = None,
) -> Result:
    """The result of one sketch; arguments are as in `Result`.

    `settings` has no `neck_splits`, and `notices` are those on settings.
    """
    settings = {**settings, "neck_splits": page.neck_splits}
    regions, trace = page.numbered.regions, finished.trace
    attention = fusion = None
    if trace is not None:
        attention = np.asarray(trace.attention.mean(0))[:, : regions.n]
        fusion = np.asarray(trace.fusion)[:, :, : regions.n]
    return Result(
        images=finished.images,
        coarse=finished.coarse,
        sketch=page.sketch,
        regions=regions,
        numbers=page.numbered.numbers,
        pieces=request.pieces,
        attention=attention,
        fusion=fusion,
        settings=settings,
        notices=[*request.notices, *notices],
        seconds=seconds,
        sketch_page=page,
        request=request,
        given=given,
    )
