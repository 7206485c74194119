"""The process of one part: `python -m benchmarks.device.part NAME FILE [--tiny]`.

Writes the results to FILE after every row, so that they survive a killed process.
"""

import json
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.device.parts import FULL, TINY, SkippedError, rows
from benchmarks.report import Row
from ragaf_jax.runtime.gpu_memory import raise_share

# Matched as text: JAX has no exception type for it, and PyTorch's would need an import.
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")


def recorded(measured: Iterable[Row], path: Path) -> str:
    """Writes {"status", "reason", "rows"} to a file, again after every row.

    Args:
      measured: the rows of a part, measured lazily.
      path: the file; its status is "failed" until the end, because a crash writes nothing.

    Returns:
      "measured", "skipped", "out of memory" or "failed".
    """
    found: list[Row] = []

    def write(status: str, reason: str | None = None) -> str:
        values: dict[str, Any] = {"status": status, "reason": reason, "rows": found}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.replace(path)  # atomic: the process may be killed at any time
        return status

    try:
        for row in measured:
            found.append(row)
            write("failed")
    except SkippedError as reason:
        return write("skipped", str(reason))
    except Exception as error:  # the other parts are still measured
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        status = "out of memory" if any(x in text for x in _OUT_OF_MEMORY) else "failed"
        return write(status, text[:500])
    return write("measured")


def main() -> None:
    """Measures the part on the command line."""
    name, path, *options = sys.argv[1:]
    raise_share()  # as the commands do
    tiny = options == ["--tiny"]
    part = next(part for part in (TINY if tiny else FULL) if part.name == name)
    recorded(rows(part, tiny), Path(path))


if __name__ == "__main__":
    main()
