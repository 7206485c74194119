"""Plots α over timesteps: the balance of sketch and text as noise decreases."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ragaf_jax.evaluation.statistics.summary import Json

_KINDS = {"drawn": ("other regions", "#4c78a8"), "background": ("background", "#9a9a9a")}


def fusion_figure(balance: Json) -> UInt8[np.ndarray, "h w 3"]:
    """The mean α of the background and of other regions with its interval, from noise to image.

    balance: the result of `summary.fusion_summary`.
    """
    from matplotlib.figure import Figure  # its import takes a second; see `figures.curves`

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    panel = figure.subplots()
    levels = balance["levels"]
    for kind, (label, color) in _KINDS.items():
        if kind in balance:
            mean, low, high = np.transpose(balance[kind]["alpha"])
            panel.plot(levels, mean, marker="o", color=color, label=label)
            panel.fill_between(levels, low, high, color=color, alpha=0.25, linewidth=0)
    panel.axhline(0.5, color="0.8", linewidth=0.8)
    panel.set(
        xlabel="timestep, share of T: noise on the left, image on the right",
        ylabel="α, the sketch's weight; β = 1 − α",
        xlim=(1, 0),
        ylim=(0, 1),
    )
    panel.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return np.array(Image.open(file).convert("RGB"))
