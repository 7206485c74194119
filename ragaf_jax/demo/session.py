"""The state of one visitor: sketch, merged regions, region prompts.

`match_regions` pairs the regions of an edited sketch with those before the edit.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.figures.graph import draw_regions
from ragaf_jax.figures.lettering import Rgb
from ragaf_jax.framing import Size
from ragaf_jax.sampling.numbered import NumberedRegions, merged
from ragaf_jax.sampling.request import SketchPage

HIGHLIGHT = (255, 80, 0)  # RGB of the chosen region's border

# Least intersection over union of matching regions. A stroke that halves a region leaves 0.5.
LEAST_OVERLAP = 0.25


class Session(NamedTuple):
    """One visitor's sketch with region prompts and merges.

    Attributes:
      page: the sketch and its regions after merging; None without a sketch.
      found: the regions before merging.
      merges: numbers in `found` of merged regions, one tuple per merged region.
      prompts, negatives: prompts and negative prompts, by region number.
      chosen: number of the chosen region, or None.
      merging: whether the next clicked region is merged with the chosen one.
      notice: losses of the last change of the sketch; may be empty.
      size: height and width of the image, and so the proportions of the canvas; None: not chosen.
    """

    page: SketchPage | None = None
    found: NumberedRegions | None = None
    merges: tuple[tuple[int, ...], ...] = ()
    prompts: Mapping[int, str] = {}
    negatives: Mapping[int, str] = {}
    chosen: int | None = None
    merging: bool = False
    notice: str = ""
    size: Size | None = None

    def resketch(self, page: SketchPage | None) -> "Session":
        """The session with a changed sketch.

        Merges, prompts and choice are carried over to matching regions; see `match_regions`.
        """
        if page is None:
            return Session(size=self.size)
        if self.page is None or self.found is None or self.page.size != page.size:
            return Session(page, page.numbered, size=page.size)
        match = match_regions(self.found, page.numbered)
        groups = [[match[number] for number in group if number in match] for group in self.merges]
        merges = tuple(tuple(sorted(group)) for group in groups if len(group) > 1)
        after = _with_merges(page, page.numbered, merges)
        match = match_regions(self.page.numbered, after.numbered)
        prompts, negatives = (
            {match[number]: text for number, text in texts.items() if number in match}
            for texts in (self.prompts, self.negatives)
        )
        numbers = sorted({*self.prompts, *self.negatives} - {*match})
        lost = ", ".join(map(str, numbers))
        notice = f"Removed the prompts of regions that no longer exist: {lost}." if lost else ""
        chosen = None if self.chosen is None else match.get(self.chosen)
        texts = prompts, negatives
        return Session(after, page.numbered, merges, *texts, chosen, notice=notice, size=page.size)

    def click(self, x: float, y: float) -> "Session":
        """Chooses the region at a point in [0, 1]², or merges it with the chosen one."""
        if self.page is None:
            return self
        labels = self.page.numbered.regions.labels
        height, width = labels.shape
        row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
        number = self.page.numbered.numbers[labels[row, column]]
        if not self.merging or self.chosen is None:
            return self._replace(chosen=number)
        return self._merge(self.chosen, number)._replace(merging=False)

    def begin_merge(self) -> "Session":
        """Merges the next clicked region with the chosen one; a second call cancels.

        Raises `UserError` if no region is chosen.
        """
        self._chosen()
        return self._replace(merging=not self.merging)

    def unmerge(self) -> "Session":
        """Splits the chosen region into the regions from which it was merged.

        Raises:
          UserError: no region is chosen, or it was not merged.
        """
        number = self._chosen()
        rest = tuple(group for group in self.merges if number not in group)
        if len(rest) == len(self.merges):
            raise UserError(
                f"Region {number} is not merged; choose a region that was merged from several."
            )
        return self._with(rest)._replace(merging=False)

    def apply(self, text: str, negative: str = "") -> "Session":
        """Sets prompt and negative prompt of the chosen region; an empty text removes its own.

        Raises `UserError` if no region is chosen.
        """
        number = self._chosen()
        prompts, negatives = (
            _with_text(texts, number, own)
            for texts, own in ((self.prompts, text), (self.negatives, negative))
        )
        return self._replace(prompts=prompts, negatives=negatives)

    @property
    def prompt(self) -> str:
        """The prompt of the chosen region; may be empty."""
        return "" if self.chosen is None else self.prompts.get(self.chosen, "")

    @property
    def negative(self) -> str:
        """The negative prompt of the chosen region; may be empty."""
        return "" if self.chosen is None else self.negatives.get(self.chosen, "")

    @property
    def figure(self) -> Rgb | None:
        """The numbered regions, the chosen one with a thick border."""
        if self.page is None:
            return None
        numbered = self.page.numbered
        figure = draw_regions(self.page.page, *numbered)
        if self.chosen is None:
            return figure
        chosen = numbered.regions.labels == numbered.id_of(self.chosen)
        return highlighted(figure, chosen.astype(np.uint8))

    def _chosen(self) -> int:
        """The chosen region; raises `UserError` without one."""
        if self.chosen is None:
            raise UserError("No region is chosen; click one in the figure of the regions.")
        return self.chosen

    def _merge(self, one: int, other: int) -> "Session":
        """Merges two regions, with each text of `one`, or of `other` if `one` has none."""
        if one == other:
            return self
        members = {number: {number} for number in (one, other)}
        rest = []
        for group in self.merges:
            number = min(group)
            if number in members:
                members[number] = set(group)
            else:
                rest.append(group)
        union = tuple(sorted(members[one] | members[other]))
        prompts, negatives = (
            _merged_texts(texts, one, other) for texts in (self.prompts, self.negatives)
        )
        united = self._with((*rest, union))
        return united._replace(prompts=prompts, negatives=negatives, chosen=union[0])

    def _with(self, merges: tuple[tuple[int, ...], ...]) -> "Session":
        assert self.page is not None and self.found is not None
        return self._replace(page=_with_merges(self.page, self.found, merges), merges=merges)


def match_regions(before: NumberedRegions, after: NumberedRegions) -> dict[int, int]:
    """Pairs regions greedily by falling intersection over union, each region once.

    Background matches background only: the inside of a new frame around the page is no background.

    Args:
      before, after: partitions of pages of the same size.

    Returns:
      Numbers in `after` by numbers in `before`, without regions that no longer exist.
    """
    old, new = before.regions, after.regions
    pairs = (old.labels * new.n + new.labels).ravel()
    shared = np.bincount(pairs, minlength=old.n * new.n).reshape(old.n, new.n)
    union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
    overlap = np.where(old.background[:, None] == new.background, shared / union, 0)
    found: dict[int, int] = {}
    for pair in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(pair), new.n)
        if overlap[i, j] < LEAST_OVERLAP:
            break
        one, other = before.numbers[i], after.numbers[j]
        if one not in found and other not in found.values():
            found[one] = other
    return found


def _with_text(texts: Mapping[int, str], number: int, text: str = "") -> dict[int, str]:
    """The texts of regions with this one of region `number`, or without it if it is empty."""
    others = {other: own for other, own in texts.items() if other != number}
    return {**others, number: text.strip()} if text.strip() else others


def _merged_texts(texts: Mapping[int, str], one: int, other: int) -> dict[int, str]:
    """The texts of regions after the merge of two under the smaller of their numbers."""
    kept = texts.get(one) or texts.get(other, "")
    return _with_text(_with_text(texts, max(one, other)), min(one, other), kept)


def _with_merges(
    page: SketchPage, found: NumberedRegions, merges: tuple[tuple[int, ...], ...]
) -> SketchPage:
    return page._replace(numbered=merged(found, merges))


def highlighted(figure: Rgb, region: UInt8[np.ndarray, "h w"]) -> Rgb:
    """The figure, a multiple of the region's size, with a thick line inside the region's border."""
    size = figure.shape[1], figure.shape[0]
    mask = cv2.resize(region, size, interpolation=cv2.INTER_NEAREST)
    width = max(3, figure.shape[0] // 85)
    # Outside the page counts as another region, so that borders also run along its edge.
    inner = cv2.erode(
        mask, np.ones((2 * width + 1,) * 2, np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    result = figure.copy()
    result[(mask > 0) & (inner == 0)] = HIGHLIGHT
    return result
