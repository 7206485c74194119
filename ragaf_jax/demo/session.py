"""The state of one visitor: sketch, merged regions, region prompts; without a browser."""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from ragaf_jax.demo.matching import match_regions
from ragaf_jax.errors import UserError
from ragaf_jax.figures.graph import draw_regions
from ragaf_jax.figures.lettering import Picture
from ragaf_jax.sampling.numbered import NumberedRegions, merged
from ragaf_jax.sampling.request import SketchPage

HIGHLIGHT = (255, 80, 0)  # of the chosen region's border


class Session(NamedTuple):
    """One visitor's sketch and what belongs to its regions.

    Attributes:
      page: the sketch and its regions, some of them merged; None before there is a sketch.
      found: the regions before any were merged.
      merges: numbers in `found` of the regions that became one.
      prompts: of regions, by their numbers.
      chosen: the number of the chosen region; None where none is.
      merging: whether the next region that is clicked is merged with the chosen one.
      notice: what the last change of the sketch removed or left out; may be empty.
    """

    page: SketchPage | None = None
    found: NumberedRegions | None = None
    merges: tuple[tuple[int, ...], ...] = ()
    prompts: Mapping[int, str] = {}
    chosen: int | None = None
    merging: bool = False
    notice: str = ""

    def resketch(self, page: SketchPage | None) -> "Session":
        """The session with a changed sketch.

        Merges, prompts and the choice stay with the regions that still exist; see `match_regions`.
        """
        if page is None:
            return Session()
        if self.page is None or self.found is None:
            return Session(page, page.numbered)
        kept = match_regions(self.found, page.numbered)
        groups = [[kept[number] for number in group if number in kept] for group in self.merges]
        merges = tuple(tuple(sorted(group)) for group in groups if len(group) > 1)
        after = _with_merges(page, page.numbered, merges)
        kept = match_regions(self.page.numbered, after.numbered)
        prompts = {kept[number]: text for number, text in self.prompts.items() if number in kept}
        lost = ", ".join(str(number) for number in sorted(self.prompts) if number not in kept)
        notice = f"Removed with their regions: the prompts of {lost}." if lost else ""
        chosen = None if self.chosen is None else kept.get(self.chosen)
        return Session(after, page.numbered, merges, prompts, chosen, notice=notice)

    def click(self, x: float, y: float) -> "Session":
        """Chooses the region at a place of the page, or merges it with the chosen one.

        Args:
          x, y: in shares of the page's sides.
        """
        if self.page is None:
            return self
        labels = self.page.numbered.regions.labels
        row, column = (min(int(share * len(labels)), len(labels) - 1) for share in (y, x))
        number = self.page.numbered.numbers[labels[row, column]]
        if not self.merging or self.chosen is None:
            return self._replace(chosen=number)
        return self._merge(self.chosen, number)._replace(merging=False)

    def begin_merge(self) -> "Session":
        """The next region that is clicked is merged with the chosen one; a second call cancels.

        Raises:
          UserError: no region is chosen.
        """
        self._chosen()
        return self._replace(merging=not self.merging)

    def unmerge(self) -> "Session":
        """The chosen region as the regions that it was merged from.

        Raises:
          UserError: no region is chosen, or it was not merged.
        """
        number = self._chosen()
        rest = tuple(group for group in self.merges if number not in group)
        if len(rest) == len(self.merges):
            raise UserError(
                f"Region {number} was not merged; choose one that was made of several regions."
            )
        return self._with(rest)._replace(merging=False)

    def apply(self, text: str) -> "Session":
        """The chosen region with this prompt; an empty text removes it.

        Raises:
          UserError: no region is chosen.
        """
        number = self._chosen()
        prompts = {other: text for other, text in self.prompts.items() if other != number}
        if text.strip():
            prompts[number] = text.strip()
        return self._replace(prompts=prompts)

    @property
    def prompt(self) -> str:
        """The chosen region's prompt; may be empty."""
        return "" if self.chosen is None else self.prompts.get(self.chosen, "")

    @property
    def figure(self) -> Picture | None:
        """The regions with their numbers, the chosen one with a thick border."""
        if self.page is None:
            return None
        numbered = self.page.numbered
        figure = draw_regions(self.page.page, *numbered)
        if self.chosen is None:
            return figure
        chosen = numbered.regions.labels == numbered.id_of(self.chosen)
        return highlighted(figure, chosen.astype(np.uint8))

    def _chosen(self) -> int:
        if self.chosen is None:
            raise UserError("No region is chosen; click one in the picture of the regions.")
        return self.chosen

    def _merge(self, one: int, other: int) -> "Session":
        """The merged region keeps the prompt of `one`, or else that of `other`."""
        if one == other:
            return self
        parts = {number: {number} for number in (one, other)}
        rest = []
        for group in self.merges:
            number = min(group)
            if number in parts:
                parts[number] = set(group)
            else:
                rest.append(group)
        whole = tuple(sorted(parts[one] | parts[other]))
        prompts = dict(self.prompts)
        texts = [prompts.pop(number) for number in (one, other) if number in prompts]
        if texts:
            prompts[whole[0]] = texts[0]
        return self._with((*rest, whole))._replace(prompts=prompts, chosen=whole[0])

    def _with(self, merges: tuple[tuple[int, ...], ...]) -> "Session":
        assert self.page is not None and self.found is not None
        return self._replace(page=_with_merges(self.page, self.found, merges), merges=merges)


def _with_merges(
    page: SketchPage, found: NumberedRegions, merges: tuple[tuple[int, ...], ...]
) -> SketchPage:
    return page._replace(numbered=merged(found, merges))


def highlighted(figure: Picture, region: UInt8[np.ndarray, "s s"]) -> Picture:
    """The figure with a thick line inside the border of one region.

    Args:
      figure: of a multiple of the region's size.
      region: 1 where the region is, 0 elsewhere.
    """
    size = figure.shape[1], figure.shape[0]
    mask = cv2.resize(region, size, interpolation=cv2.INTER_NEAREST)
    width = max(3, figure.shape[0] // 85)
    # Beyond the page counts as outside, so that a region at its edge has a border there too.
    inner = cv2.erode(
        mask,
        np.ones((2 * width + 1,) * 2, np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    result = figure.copy()
    result[(mask > 0) & (inner == 0)] = HIGHLIGHT
    return result
