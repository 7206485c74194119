"""Recolours the fills of a drawing, with a caption that gives the colours and their places.

Example: "house: large white in the middle, large red at the top, small brown bottom left". Each
phrase holds for all parts of that size at that place. `Recoloring.true_colors` is the ground truth
of the parts' colours.
"""

import re
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from input_pipeline.datasets.openmoji_art import INKED, Paint
from input_pipeline.datasets.phrases import size_and_place
from input_pipeline.datasets.scanning.splits import stable_hash
from ragaf_jax.palette import PALETTE, PALETTE_RGB

# Least shares of the page of a part, and of the largest part of a phrase.
PART, NAMED = 0.001, 0.005
MAX_PARTS, MAX_PHRASES, MAX_WORDS = 255, 6, 38

_COLOR_WORDS = re.compile(
    rf"\b(?:(?:light|dark) )?(?:{'|'.join(PALETTE)}|gray|blond)\b\s*", re.IGNORECASE
)


class Parts(NamedTuple):
    """The connected areas of one colour that are visible between lines, sorted by falling area."""

    labels: Int[np.ndarray, "p p"]  # 1 + the part's index, also under ink; 0 where there is none
    visible: Int[np.ndarray, "p p"]  # the same, but 0 under ink
    share: Float[np.ndarray, " n"]  # visible share of the page
    centroid: Float[np.ndarray, "n 2"]  # mean x and y of the visible pixels, 0 … 1


class Phrase(NamedTuple):
    """All large or all small parts at one place, which a caption names together."""

    words: tuple[str, str]  # size and place
    parts: tuple[int, ...]  # indices, from 0


class Recoloring(NamedTuple):
    """One drawing in new colours."""

    image: UInt8[np.ndarray, "s s 3"]  # sRGB
    caption: str  # the drawing's name and the colour of every phrase
    true_colors: Int[np.ndarray, " n"]  # palette index of each part's colour, -1 if it is not named


class Recolorer:
    """Recolours one drawing repeatedly.

    The image is linear in the colours of its parts, so that the work at the fine size is done once.
    Sums of integers give the same bytes on every machine.
    """

    def __init__(self, name: str, paint: Paint, lines: UInt8[np.ndarray, "p p"], size: int):
        """Finds the parts and phrases; P is a multiple of `size` in px; ink is 0, paper 255."""
        self.name = bare_name(name)
        self.parts = find_parts(paint, lines)
        self.phrases = plan_phrases(self.parts, self.name)
        phrase_of_part = np.zeros(1 + len(self.parts.share), np.int64)
        for number, phrase in enumerate(self.phrases, 1):
            phrase_of_part[1 + np.array(phrase.parts)] = number
        phrase_of_pixel = phrase_of_part[self.parts.labels]
        # Sums of the lines' brightness: [S, S, 0 for unchanged colours, else the phrase].
        cells, count = _cells(len(lines), size), 1 + len(self.phrases)
        light = _sum_by(cells * count + phrase_of_pixel, lines, size * size * count)
        self._light = light.reshape(size, size, count)
        unchanged = np.where(phrase_of_pixel > 0, 0, lines.astype(np.int64))
        below = np.where(paint.painted[..., None], paint.color, 255)
        self._unchanged = np.stack(
            [_sum_by(cells, unchanged * below[..., c], size * size) for c in range(3)], -1
        ).reshape(size, size, 3)
        self._full = 255 * (len(lines) // size) ** 2

    def true_labels(self) -> UInt8[np.ndarray, "s s"]:
        """1 + the part that covers more than half of each pixel, 0 where there is none."""
        fine, size = len(self.parts.visible), len(self._unchanged)
        count = 1 + len(self.parts.share)
        index = _cells(fine, size) * count + self.parts.visible
        votes = np.bincount(index.ravel(), minlength=size * size * count).reshape(size, size, count)
        shown = np.where(2 * votes.max(-1) > (fine // size) ** 2, votes.argmax(-1), 0)
        return shown.astype(np.uint8)

    def paint(self, seed: str) -> Recoloring:
        """Gives each phrase a colour, uniform over the palette, that depends on `seed` alone."""
        true_colors = np.full(len(self.parts.share), -1, np.int32)
        total, phrases = self._unchanged.copy(), {}
        for number, phrase in enumerate(self.phrases, 1):
            size, place = phrase.words
            choice = stable_hash(f"{seed}/{size}/{place}") % len(PALETTE)
            true_colors[list(phrase.parts)] = choice
            total += self._light[..., number, None] * PALETTE_RGB[choice].astype(np.int64)
            order = stable_hash(f"{seed}/order/{size}/{place}")
            phrases[order] = f"{size} {PALETTE[choice]} {place}"
        image = ((2 * total + self._full) // (2 * self._full)).astype(np.uint8)
        # A random order, so that only the words indicate places.
        text = ", ".join(phrases[order] for order in sorted(phrases))
        return Recoloring(image, f"{self.name}: {text}", true_colors)


def find_parts(paint: Paint, lines: UInt8[np.ndarray, "p p"]) -> Parts:
    """The parts whose visible share of the page is at least `PART`."""
    components = _color_components(paint)
    area = np.bincount(components[lines >= INKED], minlength=components.max() + 1)
    area[0] = 0
    order = np.argsort(-area, kind="stable")
    order = order[area[order] >= PART * lines.size][:MAX_PARTS]

    renumber = np.zeros(len(area), np.int32)
    renumber[order] = 1 + np.arange(len(order))
    labels, area = renumber[components], area[order]
    visible = np.where(lines >= INKED, labels, 0)
    y, x = np.nonzero(visible)
    which = visible[y, x]
    sums = [_sum_by(which, 2 * axis + 1, len(order) + 1)[1:] for axis in (x, y)]
    centroid = np.stack(sums, -1) / (2 * len(lines) * area[:, None])
    return Parts(labels, visible, area / lines.size, centroid)


def plan_phrases(parts: Parts, name: str) -> list[Phrase]:
    """The parts that a caption names, by falling total area; other parts are not recoloured."""
    by_words: dict[tuple[str, str], list[int]] = {}
    for index, share in enumerate(parts.share):
        words = size_and_place(share, parts.centroid[index])
        by_words.setdefault(words, []).append(index)
    phrases = [Phrase(words, tuple(members)) for words, members in by_words.items()]
    phrases = [phrase for phrase in phrases if parts.share[list(phrase.parts)].max() >= NAMED]
    phrases.sort(key=lambda phrase: -parts.share[list(phrase.parts)].sum())

    chosen, words_left = [], MAX_WORDS - _count_words(f"{name}:")
    for phrase in phrases[:MAX_PHRASES]:
        words_left -= _count_words(f"{phrase.words[0]} color {phrase.words[1]},")
        if words_left < 0:
            break
        chosen.append(phrase)
    return chosen


def bare_name(name: str) -> str:
    """The name without colour words, which are wrong for the new colours."""
    return _COLOR_WORDS.sub("", name).strip()


def _count_words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def _color_components(paint: Paint) -> Int[np.ndarray, "p p"]:
    """Connected components of one colour, numbered from 1; 0 where nothing is painted."""
    packed = paint.color.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    packed = np.where(paint.painted, packed, -1)
    components = np.zeros(packed.shape, np.int32)
    count = 0
    for color in np.unique(packed[paint.painted]):
        found, numbered = cv2.connectedComponents(np.uint8(packed == color), connectivity=8)
        components = np.where(numbered > 0, numbered + count, components)
        count += found - 1
    return components


def _cells(fine: int, size: int) -> Int[np.ndarray, "p p"]:
    """The row-major index of the pixel of a size × size image that contains each fine pixel."""
    line = np.arange(fine) // (fine // size)
    return line[:, None] * size + line


def _sum_by(index: Int[np.ndarray, "..."], values: np.ndarray, count: int) -> Int[np.ndarray, " k"]:
    """Sums of integers below 2^53, which are exact in float64."""
    return np.bincount(index.ravel(), values.ravel(), count).astype(np.int64)
