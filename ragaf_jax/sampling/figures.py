"""What is shown of one drawing: `comparison`."""

import numpy as np
from jaxtyping import UInt8

from ragaf_jax.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.lettering import Picture


def comparison(
    sketch: UInt8[np.ndarray, "s s"],
    stage1: UInt8[np.ndarray, "s s 3"],
    stage2: UInt8[np.ndarray, "s s 3"],
    prompt: str,
) -> Picture:
    """sketch | stage 1 | stage 2, with the prompt below."""
    row = SheetRow((sketch, stage1, stage2), prompt)
    return contact_sheet([row], ("sketch", "stage 1", "stage 2"))
