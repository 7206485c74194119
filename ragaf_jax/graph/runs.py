"""A label map as runs of equal labels along its rows: far fewer of them than of pixels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer


class Runs(NamedTuple):
    """All runs of a map, row by row from left to right; no run goes on in the next row."""

    label: Int[np.ndarray, " k"]
    start: Int[np.ndarray, " k"]  # index of the first pixel in the flat map
    length: Int[np.ndarray, " k"]


def find_runs(labels: Integer[np.ndarray, "h w"]) -> Runs:
    """The runs of a map of at least one pixel."""
    flat = labels.ravel()
    begins = np.empty(flat.shape, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: labels.shape[1]] = True
    start = np.flatnonzero(begins)
    length = np.empty_like(start)
    np.subtract(start[1:], start[:-1], out=length[:-1])
    length[-1] = flat.size - start[-1]
    return Runs(flat[start].astype(np.intp), start, length)
