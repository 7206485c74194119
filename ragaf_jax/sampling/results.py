"""The result of a call: images, regions, attention, settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ragaf_jax.figures import upscaled
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.graph.build import RegionGraph
from ragaf_jax.graph.regions import Regions
from ragaf_jax.sampling.loop import Finished
from ragaf_jax.sampling.options import setting_notices
from ragaf_jax.sampling.request import Request, SketchPage


class Result(NamedTuple):
    """n images of one sketch with r regions and T tokens, and how they were sampled.

    Attributes:
      images: one for each seed.
      coarse: as in `Finished`.
      sketch: the input of the networks; paper 255, ink 0.
      regions: where its regions lie.
      numbers: what they are called, as in `NumberedRegions`.
      graph: how they hang together.
      pieces: the text of each token.
      attention: each region's attention over the tokens, averaged over timesteps; rows sum to 1.
      fusion: α (sketch) and β (text) of each region at each of `denoising.TRACE_LEVELS`; they sum
        to 1. Both are None without RAGAF.
      settings: every choice of the call, defaults filled in.
      notices: what of sketch and prompt the model could not take in, as sentences.
      seconds: time spent by part; "sampling" includes compilation the first time.
      sketch_page: the sketch and its regions.
      request: the inputs of the networks.
      given: the image to begin from, at the model's size; None where the first stage began from
        noise.
    """

    images: UInt8[np.ndarray, "n s s 3"]
    coarse: UInt8[np.ndarray, "n s s 3"] | None
    sketch: UInt8[np.ndarray, "s s"]
    regions: Regions
    numbers: tuple[int, ...]
    graph: RegionGraph
    pieces: list[str]
    attention: Float[np.ndarray, "n r t"] | None
    fusion: Float[np.ndarray, "levels n r 2"] | None
    settings: dict[str, Any]
    notices: list[str]
    seconds: dict[str, float]
    sketch_page: SketchPage
    request: Request
    given: UInt8[np.ndarray, "s s 3"] | None = None

    def save(
        self,
        folder: str | Path,
        facts: Mapping[str, Any] | None = None,
        upscale: int = upscaled.SIDE,
    ) -> Path:
        """Writes the files that the command `ragaf_jax.sample` writes; all of them or none.

        Args:
          folder: is made; an earlier output in it is replaced.
          facts: more entries for metadata.json.
          upscale: side of the upscaled image, px, which is left out where the model's images are as
            large; 0: none.

        Returns:
          The folder.

        Raises:
          UserError: the folder holds other files or cannot be written, or no image has that side.
        """
        from ragaf_jax.sampling.outputs import FILES, write_outputs  # which imports this module

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
    seconds: dict[str, float],
    given: UInt8[np.ndarray, "s s 3"] | None = None,
) -> Result:
    """Images of one sketch and all that is known of them; the page's settings join `settings`.

    `given` is the image that they began from.
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
        graph=request.graph,
        pieces=request.pieces,
        attention=attention,
        fusion=fusion,
        settings=settings,
        notices=[*request.notices, *setting_notices(settings)],
        seconds=seconds,
        sketch_page=page,
        request=request,
        given=given,
    )
