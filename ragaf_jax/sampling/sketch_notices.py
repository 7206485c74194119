"""Notices about sketches that lose information when they are read."""

from ragaf_jax.framing import MOST_ASPECT
from ragaf_jax.graph.regions import RegionConfig
from ragaf_jax.sketch_input import SketchInput, has_faint_lines, is_filled

BLANK = "The sketch is blank: no line was found."


def sketch_notices(sketch: SketchInput, flags: bool = True) -> list[str]:
    """Losses of a sketch, and signs that it is no line drawing, one sentence each.

    Args:
      sketch: as it was read.
      flags: whether the sentences name flags of the command, which the web page lacks.
    """
    notices = []
    if sketch.crop is not None:
        left, top, right, bottom = sketch.crop
        notices.append(
            f"The sketch was cropped to its ink with a margin, {right - left:.0%} of its width and "
            f"{bottom - top:.0%} of its height"
            + ("; --nocrop (crop=False in Python) keeps the page." if flags else ".")
        )
    (height, width), (rows, columns) = sketch.size, sketch.lines.shape
    limit, aspect = max(height / width, width / height), max(rows / columns, columns / rows)
    if sketch.crop is None and aspect > MOST_ASPECT * 1.1 and aspect > limit > 1:
        notices.append(
            f"The longer side of the sketch is {aspect:.1f} times the shorter one, and that of the "
            f"image {limit:.1f} times; the rest is paper: crop the sketch"
            + (", or give --width and --height (width= and height= in Python)." if flags else ".")
        )
    if is_filled(sketch.lines):
        notices.append(
            "The sketch looks like a filled picture or a photo, and lines inside dark areas are "
            "lost; give a line drawing"
            + ("; --image takes an image to start from." if flags else ".")
        )
    elif sketch.page.min() == 255:
        notices.append(BLANK)
    if has_faint_lines(sketch.page, RegionConfig().threshold):
        notices.append(
            "Some lines of the sketch are much fainter than the others and do not separate "
            "regions; make them darker."
        )
    return notices
