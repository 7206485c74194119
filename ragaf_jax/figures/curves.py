"""Loss curves of training runs, read from their metrics.jsonl."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ragaf_jax.errors import UserError
from ragaf_jax.figures.lettering import Rgb

# metric name → (steps, values)
Series = dict[str, tuple[list[int], list[float]]]


def read_metrics(path: Path) -> Series:
    """Reads the metrics that a run logged, by name; incomplete lines are skipped.

    Raises:
      UserError: the file is missing or holds no metric.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(
            f"The metrics {path} cannot be read: {error.strerror}; give a run's logs/metrics.jsonl."
        ) from error
    series: Series = {}
    for line in lines:
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (json.JSONDecodeError, KeyError, AttributeError):
            continue
        for name, value in values.items():
            if isinstance(value, str):  # a message
                continue
            steps, numbers = series.setdefault(name, ([], []))
            steps.append(step)
            numbers.append(value)
    if not series:
        raise UserError(f"The metrics {path} contain no values; give a run's logs/metrics.jsonl.")
    return series


def curves(runs: Mapping[str, Path]) -> Rgb:
    """Training loss, and validation losses where logged, with one panel per run.

    runs: path of the metrics.jsonl by title of the panel.

    Raises:
      UserError: as `read_metrics`.
    """
    # The import takes a second. `Figure` needs no display and changes no global state.
    from matplotlib.figure import Figure

    logged = {title: read_metrics(path) for title, path in runs.items()}
    figure = Figure(figsize=(6 * len(runs), 4), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, (title, series) in zip(panels, logged.items(), strict=True):
        for name, (steps, values) in series.items():
            if name == "loss":
                panel.plot(steps, values, color="0.8", linewidth=0.8)
                panel.plot(steps, smoothed(values), color="black", label="loss (smoothed)")
            elif name.startswith("validation/"):
                label = name.removeprefix("validation/").replace("_", " ")
                panel.plot(steps, values, marker="o", markersize=3, label=f"validation: {label}")
        panel.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        panel.grid(alpha=0.3, which="both")
        panel.legend()
    return rendered(figure)


def rendered(figure: Any) -> Rgb:
    """The pixels of Matplotlib's `figure`; `savefig` would draw it twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def smoothed(values: list[float], share: float = 0.05) -> list[float]:
    """The moving mean over a fraction `share` of the points, over fewer at both ends."""
    half = round(share * len(values) / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    points = np.arange(len(values))
    begin, end = np.maximum(points - half, 0), np.minimum(points + half + 1, len(values))
    return list((total[end] - total[begin]) / (end - begin))
