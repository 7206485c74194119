"""The results of the device benchmark as short Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import Row, table

_COLUMNS = {
    "step": (
        *("stage", "batch", "step, s", "step, ± %", "images/s", "TFLOP/s", "MFU, %"),
        *("MFU of the data sheet, %", "peak, GiB", "planned peak, GiB", "compiled in, s"),
    ),
    "sample": (
        *("stage", "batch", "latency, s", "latency, ± %", "images/s", "peak, GiB"),
        "first run, s",
    ),
    "torch": (
        *("task", "batch", "torch, s", "torch, ± %", "ours / torch", "images/s", "peak, GiB"),
        "first run, s",
    ),
    "attention": (
        *("attention", "queries", "keys", "heads", "size", "form", "forward, ms"),
        *("both passes, ms", "error of output", "worst gradient's error", "kernels"),
    ),
}


def summary(results: Mapping[str, Any]) -> str:
    """Markdown: the ceiling, a table per kind, and the parts without results.

    Args:
      results: the command's JSON object.
    """
    parts = results["parts"]
    ceiling, sheet = ceilings(parts)
    blocks = []
    if ceiling is not None:
        peak = "" if sheet is None else f"; the data sheet has {sheet:.4g}"
        blocks.append(f"Fastest product of two bfloat16 matrices: {ceiling:.4g} TFLOP/s{peak}.")
    for kind, columns in _COLUMNS.items():
        rows = [
            row for name, part in parts.items() if name.startswith(kind) for row in part["rows"]
        ]
        if kind == "attention":
            rows = [with_worst(row) for row in rows]
        if rows:
            blocks.append(table([{name: row.get(name) for name in columns} for row in rows]))
    missed = {name: part for name, part in parts.items() if part["status"] != "measured"}
    blocks += [f"{name}: {part['status']} ({part['reason']})" for name, part in missed.items()]
    skipped = [name for name, part in missed.items() if part["status"] == "skipped"]
    if skipped:
        blocks.append(f"To measure these alone: bash benchmarks/device.sh {' '.join(skipped)}")
    return "\n\n".join(blocks)


def ceilings(parts: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(measured, data sheet's) TFLOP/s of bfloat16 products; None if unknown."""
    rows: Sequence[Row] = parts.get("ceiling", {"rows": []})["rows"]
    measured = max((row["TFLOP/s"] for row in rows), default=None)
    return measured, rows[0]["data sheet, TFLOP/s"] if rows else None


def with_ratios(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts with MFU in rows of steps and "ours / torch" in PyTorch's rows.

    MFU is relative to the measured ceiling and to the data sheet's peak, in percent. None if either
    side was not measured.

    Args:
      parts: the outcomes by name, from `Outcome._asdict`.
    """
    ceiling, sheet = ceilings(parts)

    def share(row: Row, peak: float | None) -> float | None:
        rate = row.get("TFLOP/s")
        return None if rate is None or peak is None else round(100 * rate / peak, 1)

    def seconds(name: str) -> float | None:
        rows = parts.get(name, {"rows": []})["rows"]
        return rows[0].get("step, s") or rows[0].get("latency, s") if rows else None

    def compared(name: str, row: Row) -> Row:
        if name.startswith("step"):
            shares = {"MFU, %": ceiling, "MFU of the data sheet, %": sheet}
            return row | {column: share(row, peak) for column, peak in shares.items()}
        if name.startswith("torch"):
            ours = seconds(name.removeprefix("torch-"))
            return row | {
                "ours / torch": None if ours is None else round(ours / row["torch, s"], 3)
            }
        return row

    return {
        name: part | {"rows": [compared(name, row) for row in part["rows"]]}
        for name, part in parts.items()
    }


def with_worst(row: Row) -> Row:
    """A row of attention with the largest error of the gradients."""
    errors = [row[f"error of {name}"] for name in ("dq", "dk", "dv", "dbias")]
    return row | {"worst gradient's error": max(filter(None, errors), default=None)}
