"""Recolours the fills of a drawing, with a caption that states the colours by place.

A caption reads "house: large white in the middle, large red at the top, small brown bottom left".
Every phrase is true of all parts of that size at that place, so that which word belongs to which
part is known: `Recoloring.true_colors` holds the answer.
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

# Shares of the page from which on something is a part, and is named.
PART, NAMED = 0.001, 0.005
MAX_PARTS, MAX_PHRASES, MAX_WORDS = 255, 6, 38

_COLOR_WORDS = re.compile(
    rf"\b(?:(?:light|dark) )?(?:{'|'.join(PALETTE)}|gray|blond)\b\s*", re.IGNORECASE
)


class Parts(NamedTuple):
    """The connected parts of one flat colour that show between the lines, the largest first.

    Attributes:
      labels: i32[P, P], 0 where there is no part, else 1 + the part's index; under ink too.
      visible: the same, but 0 under ink.
      share: f64[n], the visible share of the page.
      centroid: f64[n, 2], x and y of the visible pixels' mean in 0 … 1.
    """

    labels: Int[np.ndarray, "p p"]
    visible: Int[np.ndarray, "p p"]
    share: Float[np.ndarray, " n"]
    centroid: Float[np.ndarray, "n 2"]


class Phrase(NamedTuple):
    """The parts that are named together: all that are large, or all that are small, at a place."""

    words: tuple[str, str]  # size and place
    parts: tuple[int, ...]  # indices, from 0


class Recoloring(NamedTuple):
    """One drawing in new colours.

    Attributes:
      image: the picture, sRGB.
      caption: the drawing's name and what was drawn for every phrase.
      true_colors: i32[n], the palette index asked for each part, -1 where none is.
    """

    image: UInt8[np.ndarray, "s s 3"]
    caption: str
    true_colors: Int[np.ndarray, " n"]


class Recolorer:
    """Paints one drawing in many ways.

    The picture is linear in the colours of its parts, so that whatever costs time at the fine
    size is done once. All sums are of whole numbers: every machine makes the same bytes.
    """

    def __init__(self, name: str, paint: Paint, lines: UInt8[np.ndarray, "p p"], size: int):
        """Finds the parts and the phrases.

        Args:
          name: what the drawing shows.
          paint: its fills, P a multiple of `size`.
          lines: its line drawing, paper 255, black where 0.
          size: side S of the pictures.
        """
        self.name = bare_name(name)
        self.parts = find_parts(paint, lines)
        self.phrases = plan_phrases(self.parts, self.name)
        phrase_of_part = np.zeros(1 + len(self.parts.share), np.int64)
        for number, phrase in enumerate(self.phrases, 1):
            phrase_of_part[1 + np.array(phrase.parts)] = number
        phrase_of_pixel = phrase_of_part[self.parts.labels]
        # Light that reaches the eye from each cell: [S, S, 0 for what keeps its colour or phrase].
        cells, count = _cells(len(lines), size), 1 + len(self.phrases)
        light = _sum_by(cells * count + phrase_of_pixel, lines, size * size * count)
        self._light = light.reshape(size, size, count)
        kept = np.where(phrase_of_pixel > 0, 0, lines.astype(np.int64))
        below = np.where(paint.painted[..., None], paint.color, 255)
        self._kept = np.stack(
            [_sum_by(cells, kept * below[..., c], size * size) for c in range(3)], -1
        ).reshape(size, size, 3)
        self._full = 255 * (len(lines) // size) ** 2

    def true_labels(self) -> UInt8[np.ndarray, "s s"]:
        """1 + the part that shows in more than half of each pixel, 0 where there is none."""
        fine, size, count = len(self.parts.visible), len(self._kept), 1 + len(self.parts.share)
        index = _cells(fine, size) * count + self.parts.visible
        votes = np.bincount(index.ravel(), minlength=size * size * count).reshape(size, size, count)
        return np.where(2 * votes.max(-1) > (fine // size) ** 2, votes.argmax(-1), 0).astype(
            np.uint8
        )

    def paint(self, seed: str) -> Recoloring:
        """A colour for every phrase, uniform among the palette's, decided by `seed` alone."""
        true_colors = np.full(len(self.parts.share), -1, np.int32)
        total, said = self._kept.copy(), {}
        for number, phrase in enumerate(self.phrases, 1):
            size, place = phrase.words
            choice = stable_hash(f"{seed}/{size}/{place}") % len(PALETTE)
            true_colors[list(phrase.parts)] = choice
            total += self._light[..., number, None] * PALETTE_RGB[choice].astype(np.int64)
            said[stable_hash(f"{seed}/order/{size}/{place}")] = f"{size} {PALETTE[choice]} {place}"
        image = ((2 * total + self._full) // (2 * self._full)).astype(np.uint8)
        # In an order that says nothing: only the words tell where a colour belongs.
        phrases = [said[order] for order in sorted(said)]
        return Recoloring(image, f"{self.name}: {', '.join(phrases)}", true_colors)


def find_parts(paint: Paint, lines: UInt8[np.ndarray, "p p"]) -> Parts:
    """The parts of which at least `PART` of the page shows between the lines."""
    pieces = _flat_pieces(paint)
    area = np.bincount(pieces[lines >= INKED], minlength=pieces.max() + 1)
    area[0] = 0
    order = np.argsort(-area, kind="stable")
    order = order[area[order] >= PART * lines.size][:MAX_PARTS]

    renumber = np.zeros(len(area), np.int32)
    renumber[order] = 1 + np.arange(len(order))
    labels, area = renumber[pieces], area[order]
    visible = np.where(lines >= INKED, labels, 0)
    y, x = np.nonzero(visible)
    which = visible[y, x]
    sums = [_sum_by(which, 2 * axis + 1, len(order) + 1)[1:] for axis in (x, y)]
    centroid = np.stack(sums, -1) / (2 * len(lines) * area[:, None])
    return Parts(labels, visible, area / lines.size, centroid)


def plan_phrases(parts: Parts, name: str) -> list[Phrase]:
    """Which parts a caption names, the largest total area first; the rest keep their colours."""
    by_words: dict[tuple[str, str], list[int]] = {}
    for index, share in enumerate(parts.share):
        words = size_and_place(share, parts.centroid[index])
        by_words.setdefault(words, []).append(index)
    phrases = [Phrase(words, tuple(members)) for words, members in by_words.items()]
    phrases = [phrase for phrase in phrases if parts.share[list(phrase.parts)].max() >= NAMED]
    phrases.sort(key=lambda phrase: -parts.share[list(phrase.parts)].sum())

    kept, words_left = [], MAX_WORDS - _count_words(f"{name}:")
    for phrase in phrases[:MAX_PHRASES]:
        words_left -= _count_words(f"{phrase.words[0]} color {phrase.words[1]},")
        if words_left < 0:
            break
        kept.append(phrase)
    return kept


def bare_name(name: str) -> str:
    """The name without words for colours, which the new colours would make untrue."""
    return _COLOR_WORDS.sub("", name).strip()


def _count_words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def _flat_pieces(paint: Paint) -> Int[np.ndarray, "p p"]:
    """Connected pixels of one colour, numbered from 1; 0 where nothing is painted."""
    packed = paint.color.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    packed = np.where(paint.painted, packed, -1)
    pieces = np.zeros(packed.shape, np.int32)
    count = 0
    for color in np.unique(packed[paint.painted]):
        found, numbered = cv2.connectedComponents(np.uint8(packed == color), connectivity=8)
        pieces = np.where(numbered > 0, numbered + count, pieces)
        count += found - 1
    return pieces


def _cells(fine: int, size: int) -> Int[np.ndarray, "p p"]:
    """The pixel, counted by rows, of a size × size image that each fine pixel falls into."""
    line = np.arange(fine) // (fine // size)
    return line[:, None] * size + line


def _sum_by(index: Int[np.ndarray, "..."], values: np.ndarray, count: int) -> Int[np.ndarray, " k"]:
    """Sums of whole numbers below 2^53, which float64 adds without rounding."""
    return np.bincount(index.ravel(), values.ravel(), count).astype(np.int64)
