"""Figures of one result: `comparison` and `fusion_curves`."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.figures.curves import rendered
from ragaf_jax.figures.lettering import Rgb

# After ten colours, lines differ by their dashes.
_DASHES = ("-", "--", ":", "-.")


def comparison(
    sketch: UInt8[np.ndarray, "h w"],
    columns: Mapping[str, UInt8[np.ndarray, "n h w 3"]],
    captions: Sequence[str],
) -> Rgb:
    """The sketch and the images of each stage by column title, one row for each of n images."""
    rows = [
        SheetRow((sketch, *(images[i] for images in columns.values())), caption)
        for i, caption in enumerate(captions)
    ]
    return contact_sheet(rows, ("sketch", *columns))


def fusion_curves(
    levels: Sequence[float], fusion: Float[np.ndarray, "levels r 2"], numbers: Sequence[int]
) -> Rgb:
    """α of each region from noise to image; the right axis shows β = 1 − α.

    levels: timesteps as fractions of T. fusion: α and β at each level. numbers: of the regions.
    """
    from matplotlib.figure import Figure  # takes a second to import; see `figures.curves`

    rows = -(-len(numbers) // 16)
    figure = Figure(figsize=(6.4 + 0.9 * rows, 4.4), layout="constrained")
    panel = figure.subplots()
    for line, i in enumerate(np.argsort(numbers)):
        style = _DASHES[line // 10 % len(_DASHES)]
        panel.plot(levels, fusion[:, i, 0], style, color=f"C{line % 10}", label=str(numbers[i]))
    panel.axhline(0.5, color="0.8", linewidth=0.8)
    panel.set(
        xlabel="timestep / T, from noise (left) to image (right)",
        ylabel="α, weight of the sketch",
        xlim=(max(levels), min(levels)),
        ylim=(0, 1),
    )
    other = panel.secondary_yaxis("right", functions=(lambda x: 1 - x,) * 2)
    other.set_ylabel("β, weight of the text")
    figure.legend(title="region", loc="outside right upper", ncols=rows, fontsize="small")
    return rendered(figure)
