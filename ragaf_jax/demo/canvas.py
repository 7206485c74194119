"""Converts between the canvas of the page and sketches of the model."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ragaf_jax.demo.session import Session
from ragaf_jax.errors import UserError
from ragaf_jax.figures.lettering import enlarge
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.images import read_grey, subject_of
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.sketch_notices import BLANK, sketch_notices
from ragaf_jax.sketch_input import read_sketch, resize_keeping_lines

LEAST_SIDE = 512  # px of the canvas


def canvas_side(page_size: int) -> int:
    """Side of the canvas, px: a multiple of the page's side, so that pages are shown exactly."""
    return page_size * -(-LEAST_SIDE // page_size)


def read_upload(path: str) -> UInt8[np.ndarray, "h w"]:
    """`read_grey`, with errors that name the file without its folder on the server."""
    try:
        return read_grey(path)
    except UserError as error:
        own, server = (subject_of(file, "sketch") for file in (Path(Path(path).name), Path(path)))
        raise UserError(str(error).replace(server, own)) from None


def upload_sketch(
    pipeline: Pipeline, grey: UInt8[np.ndarray, "h w"], neck_splits: int | float = NECK_SPLITS
) -> Session:
    """A new session with a sketch of any size and polarity, cropped if its subject is small.

    The session's notice names losses of the sketch. Without lines, the session has no sketch.
    """
    if grey.min() == grey.max():
        return Session(notice=BLANK)
    given = read_sketch(grey, pipeline.page_size, crop=True)
    notice = " ".join(sketch_notices(given, flags=False))
    if given.page.min() == 255:
        return Session(notice=notice)
    session = Session().resketch(pipeline.page(given, neck_splits=neck_splits))
    return session._replace(notice=notice)


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
    side = pipeline.page_size
    empty = session if session.page is None else Session()
    if layers is None:
        return empty
    page = resize_keeping_lines(flattened(layers), side, side)
    if page.min() == page.max():
        return empty
    before = session.page
    if before is None or not np.array_equal(page, before.page):
        return session.resketch(pipeline.page(page, neck_splits=neck_splits))
    if neck_splits == before.neck_splits:
        return session
    return session.resketch(pipeline.page(before.given, neck_splits=neck_splits))


def on_canvas(session: Session, page_size: int) -> UInt8[np.ndarray, "side side 3"] | None:
    """The session's sketch at the size of the canvas; None without a sketch."""
    if session.page is None:
        return None
    return enlarge(session.page.page, canvas_side(page_size))


def flattened(layers: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w"]:
    """RGBA on white paper, as luminance."""
    rgb, opacity = layers[..., :3].astype(np.float32), layers[..., 3:].astype(np.float32) / 255
    flat = rgb * opacity + 255 * (1 - opacity)
    return np.rint(flat @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
