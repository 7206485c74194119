"""Converts between the canvas of the page and sketches of the model."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ragaf_jax.demo.session import Session
from ragaf_jax.errors import UserError
from ragaf_jax.figures.lettering import Rgb, enlarge
from ragaf_jax.framing import Size
from ragaf_jax.graph.prepare import page_scale
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.images import read_grey, subject_of
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.sketch_notices import BLANK, sketch_notices
from ragaf_jax.sketch_input import SketchInput, resize_keeping_lines

LEAST_SIDE = 512  # px of the canvas's longer side


def canvas_size(size: Size) -> Size:
    """Height and width of the canvas for an image of this size, px.

    A multiple of the page's, so that pages are shown exactly.
    """
    height, width = (page_scale(size) * side for side in size)
    factor = -(-LEAST_SIDE // max(height, width))
    return factor * height, factor * width


def read_upload(path: str) -> UInt8[np.ndarray, "h w"]:
    """`read_grey`, with errors that name the file without its folder on the server."""
    try:
        return read_grey(path)
    except UserError as error:
        own, server = (subject_of(file, "sketch") for file in (Path(Path(path).name), Path(path)))
        raise UserError(str(error).replace(server, own)) from None


def upload_sketch(
    pipeline: Pipeline,
    grey: UInt8[np.ndarray, "h w"],
    neck_splits: int | float = NECK_SPLITS,
    width: int | None = None,
    height: int | None = None,
) -> Session:
    """A new session with a sketch of any size and polarity, cropped if its subject is small.

    The session's notice names losses of the sketch. Without lines, the session has no sketch.
    `width` and `height` are as in `Pipeline.read`, which raises UserError.
    """
    if grey.min() == grey.max():
        return Session(notice=BLANK)
    given = pipeline.read(grey, crop=True, width=width, height=height)
    notice = " ".join(sketch_notices(given, flags=False))
    if given.page.min() == 255:
        return Session(notice=notice)
    session = Session().resketch(pipeline.page(given, neck_splits=neck_splits))
    return session._replace(notice=notice)


def resized_session(
    pipeline: Pipeline,
    session: Session,
    width: int | None,
    height: int | None,
    neck_splits: int | float = NECK_SPLITS,
) -> Session:
    """The session at another size of the image; the same object if the size stays.

    Its sketch is placed anew, without region prompts and merges, because its regions are others.
    `width` and `height` are as in `Pipeline.read`, which raises UserError.
    """
    sizes, page = pipeline.leading.model.sizes, session.page
    proportions = (sizes.side, sizes.side) if page is None else page.lines.shape
    size = sizes.chosen(proportions, width, height)
    if size == (session.size or (sizes.side, sizes.side)):
        return session
    if page is None:
        return Session(size=size)
    given = pipeline.read(page.lines, crop=False, width=size[1], height=size[0])
    resized = Session().resketch(pipeline.page(given, neck_splits=neck_splits))
    if session.prompts or session.negatives or session.merges:
        notice = "Removed the region prompts and merges, because a new size has other regions."
        return resized._replace(notice=notice)
    return resized


def read_canvas(
    pipeline: Pipeline,
    session: Session,
    layers: UInt8[np.ndarray, "h w 4"] | None,
    neck_splits: int | float = NECK_SPLITS,
) -> Session:
    """The session with the sketch of the canvas; the same object if nothing has changed.

    Args:
      pipeline, neck_splits: find the regions.
      session: before the change.
      layers: RGBA of background and strokes; None for an empty canvas.

    Raises:
      UserError: `neck_splits` is out of its range.
    """
    sizes, size = pipeline.leading.model.sizes, session.size
    empty = session
    if session.page is not None:  # the canvas keeps its proportions
        empty = Session(size=None if size == (sizes.side, sizes.side) else size)
    if layers is None:
        return empty
    if size is None or layers.shape[:2] != canvas_size(size):
        size = sizes.chosen(layers.shape[:2])
    scale = page_scale(size)
    page = resize_keeping_lines(flattened(layers), scale * size[0], scale * size[1])
    if page.min() == page.max():
        return empty
    before = session.page
    if before is None or before.size != size or not np.array_equal(page, before.page):
        given = SketchInput(page, page, None, size)
        return session.resketch(pipeline.page(given, neck_splits=neck_splits))
    if neck_splits == before.neck_splits:
        return session
    return session.resketch(pipeline.page(before.given, neck_splits=neck_splits))


def on_canvas(session: Session) -> Rgb | None:
    """The session's sketch, or white paper of its size, on the canvas; None without either."""
    if session.page is not None:
        return enlarge(session.page.page, LEAST_SIDE)
    if session.size is None:
        return None
    return np.full((*canvas_size(session.size), 3), 255, np.uint8)


def flattened(layers: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w"]:
    """RGBA on white paper, as luminance."""
    rgb, opacity = layers[..., :3].astype(np.float32), layers[..., 3:].astype(np.float32) / 255
    flat = rgb * opacity + 255 * (1 - opacity)
    return np.rint(flat @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
