"""Rows of figures as Markdown and as a file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Timed

Row = dict[str, Any]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a column for every name in the first row."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[_shown(row[name]) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def timed_columns(name: str, timed: Timed | None) -> Row:
    """What was measured of one peer: median seconds, half the quartiles' distance, peak memory."""
    if timed is None:
        return {f"{name}, s": None, f"{name}, ± %": None, f"{name}, peak GiB": None}
    peak = timed.resident_peak if timed.device_peak is None else timed.device_peak
    return {
        f"{name}, s": round(timed.median, 4),
        f"{name}, ± %": round(100 * timed.spread, 1),
        f"{name}, peak GiB": round(peak / 2**30, 2),
    }


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """The results in a file, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
