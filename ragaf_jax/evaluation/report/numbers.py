"""The results of an evaluation as tables, Markdown and printed lines.

The input is the contents of metrics.json, see `evaluate.evaluate`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ragaf_jax.evaluation.registry import METRICS, Metric
from ragaf_jax.evaluation.statistics.summary import Json, responds
from ragaf_jax.figures.web_page import Table, markdown_table

STAGES = ("stage 1", "stage 2")
NONE = "–"

_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
_HEADLINES = ("edge_f1", "color_accuracy")


class Titled(NamedTuple):
    """A table with its title."""

    title: str
    rows: Table


def tables(found: Json) -> list[Titled]:
    """All tables that are not empty."""
    all_tables = [
        *_metric_tables(found),
        _graph_table(found),
        _fusion_table(found),
        _validation_table(found),
        *_comparison_tables(found),
    ]
    return [table for table in all_tables if len(table.rows) > 1]


def facts(found: Json) -> list[str]:
    """The settings and the notation, one paragraph each."""
    sample = ", ".join(f"{name} {value}" for name, value in found["sample"].items())
    steps = ", ".join(f"{stage} after {step} steps" for stage, step in found["steps"].items())
    paragraphs = [
        f"{found['drawings']} held-out examples of {found['dataset']} at {_sizes(found)} px; "
        f"{steps}; seed {found['seed']}; {sample}.",
        "Brackets: 95 % intervals over examples. Arrows: better direction. p: probability of such "
        "a difference by chance, for each metric alone.",
    ]
    if "color_accuracy" not in found["metrics"]["stage 2"]:
        paragraphs.append(
            "No parts with known colours, so their metrics are left out. Edge F1, line distance "
            "and regions measure dark lines; on photographs use the SSIM of edge maps."
        )
    return paragraphs


def _sizes(found: Json) -> str:
    """The sizes of images: the side of squares, or the number of examples of each size."""
    size, sizes = found["image_size"], found["sizes"]
    if list(sizes) == [f"{size}x{size}"]:
        return str(size)
    return ", ".join(f"{name} ({count})" for name, count in sizes.items())


def markdown(found: Json) -> str:
    """The text of report.md."""
    blocks = [f"# Evaluation of {found['workdir']}", *facts(found)]
    for title, rows in tables(found):
        blocks += [f"## {title}", markdown_table(rows)]
    if found["missing"]:
        blocks += ["## Not computed", "\n".join(f"- {line}" for line in absent(found["missing"]))]
    return "\n\n".join(blocks) + "\n"


def sentences(found: Json) -> list[str]:
    """The printed summary, one line per result."""
    lines = []
    for stage in STAGES:
        estimates = found["metrics"][stage]
        headlines = []
        for name in _HEADLINES:
            if name in estimates:
                value = _estimate(METRICS[name], estimates[name])
                of_parts = METRICS[name].needs == "parts"
                count = f" of {estimates[name]['examples']} parts" if of_parts else ""
                headlines.append(f"{METRICS[name].title} {value}{count}")
        lines.append(f"{stage}: {', '.join(headlines)}")
    for stage, by_variant in found["validation"].items():
        true = by_variant["true"]
        lines.append(
            f"{stage}: validation loss {true['mean']:.4f}, spread over seeds {true['spread']:.4f}"
        )
        for variant, loss in by_variant.items():
            if variant != "true":
                response = "responds" if responds(loss, true) else "does not respond"
                lines.append(
                    f"{stage}: with {variant.replace('_', ' ')} {loss['mean']:.4f}, "
                    f"{loss['gap']:+.4f}: {response}"
                )
    return lines + absent(found["missing"])


def absent(missing: Mapping[str, str]) -> list[str]:
    """The sentences about metrics that were not computed, in the order of `METRICS`."""
    return [missing[name] for name in METRICS if name in missing]


def _metric_tables(found: Json) -> list[Titled]:
    by_section: dict[str, list[list[str]]] = {}
    for name, metric in METRICS.items():
        cells = [found["metrics"][stage].get(name) for stage in STAGES]
        if any(cells):
            shown = [_estimate(metric, cell) if cell else NONE for cell in cells]
            change = _difference(metric, found["differences"].get(name))
            row = [metric.title + _ARROWS[metric.better], *shown, *change]
            by_section.setdefault(metric.section, []).append(row)
    head = ["", *STAGES, "stage 2 − stage 1", "p"]
    return [Titled(section, [head, *rows]) for section, rows in by_section.items()]


def _graph_table(found: Json) -> Titled:
    estimates = found["graphs"]
    rows = [[METRICS[name].title, _estimate(METRICS[name], x)] for name, x in estimates.items()]
    section = METRICS["graph_regions"].section
    return Titled(section, [["mean per example", ""], *rows])


def _fusion_table(found: Json) -> Titled:
    balance = found["fusion"] or {"levels": []}
    titles = {"all": "all regions", "drawn": "other regions", "background": "background"}
    kinds = [kind for kind in titles if kind in balance]
    head = ["timestep, share of T", *(f"α, {titles[kind]}" for kind in kinds)]
    rows = [
        [f"{level:.1f}", *(_interval(balance[kind]["alpha"][i], 3) for kind in kinds)]
        for i, level in enumerate(balance["levels"])
    ]
    return Titled("Balance of sketch (α) and text (β = 1 − α)", [head, *rows])


def _validation_table(found: Json) -> Titled:
    losses = found["validation"]
    rows = []
    for variant in losses["stage 2"]:
        cells = []
        for stage in STAGES:
            loss = losses[stage].get(variant)
            gap = "" if variant == "true" or loss is None else f", {loss['gap']:+.4f}"
            cells.append(NONE if loss is None else f"{loss['mean']:.4f}{gap}")
        rows.append([variant.replace("_", " "), *cells])
    return Titled("Validation loss under changed conditions", [["conditions", *STAGES], *rows])


def _comparison_tables(found: Json) -> list[Titled]:
    """One table per stage: this run, the others, and this run's difference from each."""
    others, made = found["comparisons"], []
    for stage in STAGES:
        heads = [text for other in others for text in (f"this − {other}", "p")]
        rows = [["", "this", *others, *heads]]
        for name, metric in METRICS.items():
            cells = [found["metrics"][stage].get(name)]
            cells += [other["metrics"][stage].get(name) for other in others.values()]
            if not any(cells):
                continue
            row = [metric.title + _ARROWS[metric.better]]
            row += [_estimate(metric, cell) if cell else NONE for cell in cells]
            for other in others.values():
                row += _difference(metric, other["differences"][stage].get(name))
            rows.append(row)
        if others:
            made.append(Titled(f"Compared: {stage}", rows))
    return made


def _estimate(metric: Metric, found: Mapping[str, Any]) -> str:
    number = _interval([found["value"], found["low"], found["high"]], metric.digits)
    chance, left = found["chance"], found["left_out"]
    by_chance = "" if chance is None else f" (chance {chance:.2f})"
    return number + by_chance + (f", {left} left out" if left else "")


def _difference(metric: Metric, found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return [NONE, NONE]
    number = _interval([found["difference"], found["low"], found["high"]], metric.digits, "+")
    return [number, f"{found['p_value']:.4f}"]


def _interval(interval: list[float], digits: int, sign: str = "") -> str:
    value, low, high = (f"{x:{sign}.{digits}f}" for x in interval)
    return f"{value} [{low}, {high}]"
