"""The overview of a batch: each sketch beside its images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.figures.lettering import Rgb, below, beside, on_page, text_block
from ragaf_jax.folders import whole_files
from ragaf_jax.framing import place_inside

FILE = "overview.png"
MOST = 100  # sketches; in three columns about 6000 px high
CELL = 128  # px
ROWS, COLUMNS = 10, 3  # least rows per column if there are several columns, and most columns
# Title of each file; files that no output has are left out.
_TITLES = {"sketch.png": "sketch", "stage1_output.png": "stage 1", "stage2_output.png": "stage 2"}


def write_overview(output: Path, names: Sequence[str]) -> None:
    """Writes overview.png of the outputs in a batch's folder, if there are any.

    names: of its subfolders; only the first `MOST` with images are shown.
    """
    names = [name for name in names if any((output / name / file).exists() for file in _TITLES)]
    if not names:
        return
    with whole_files(output) as partial:
        Image.fromarray(overview(output, names)).save(partial / FILE)


def overview(output: Path, names: Sequence[str]) -> Rgb:
    """One row per output: sketch, images, and below them name and prompt; see `write_overview`."""
    shown = names[:MOST]
    files = [x for x in _TITLES if any((output / name / x).exists() for name in shown)]
    rows = []
    for name in shown:
        cells = [_cell(output / name / file) for file in files]
        rows.append(SheetRow(cells, f"{name}: {_prompt(output / name)}"))
    columns = min(COLUMNS, -(-len(rows) // ROWS))
    height = -(-len(rows) // columns)
    titles = [_TITLES[file] for file in files]
    sheets = [
        contact_sheet(rows[i : i + height], titles, CELL) for i in range(0, len(rows), height)
    ]
    if len(shown) == len(names):
        return beside(sheets, gap=0)
    note = text_block(f"The first {len(shown)} of {len(names)} sketches", 400)
    return below([on_page(note), beside(sheets, gap=0)], gap=0)


def _cell(file: Path) -> Rgb:
    """An image centred in a cell, as large as it fits; a white cell where it is missing."""
    cell = np.full((CELL, CELL, 3), 255, np.uint8)
    if file.exists():
        with Image.open(file) as image:
            height, width, rows, columns = place_inside(image.height, image.width, cell.shape[:2])
            larger = max(image.size) > CELL
            resample = Image.Resampling.BOX if larger else Image.Resampling.NEAREST
            cell[rows, columns] = np.array(image.convert("RGB").resize((width, height), resample))
    return cell


def _prompt(folder: Path) -> str:
    """The prompt and the region prompts in one line."""
    file = folder / "prompt.txt"
    return "; ".join(file.read_text(encoding="utf-8").splitlines()) if file.exists() else ""
