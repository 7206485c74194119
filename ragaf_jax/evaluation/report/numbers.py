"""The numbers of an evaluation as tables, Markdown and sentences.

All read what metrics.json holds, which `evaluate.evaluate` describes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ragaf_jax.evaluation.registry import METRICS, Metric
from ragaf_jax.evaluation.statistics.summary import Json, listens
from ragaf_jax.figures.web_page import Table, markdown_table

STAGES = ("stage 1", "stage 2")
NONE = "–"

_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
_HEADLINES = ("edge_f1", "color_accuracy")


class Titled(NamedTuple):
    """A table and what stands above it."""

    title: str
    rows: Table


def tables(found: Json) -> list[Titled]:
    """All tables that there is anything in."""
    parts = [
        *_metric_tables(found),
        _graph_table(found),
        _fusion_table(found),
        _validation_table(found),
        *_comparison_tables(found),
    ]
    return [table for table in parts if len(table.rows) > 1]


def facts(found: Json) -> list[str]:
    """What was measured, a sentence each."""
    sample = ", ".join(f"{name} {value}" for name, value in found["sample"].items())
    steps = ", ".join(f"{stage} after {step} steps" for stage, step in found["steps"].items())
    said = [
        f"{found['drawings']} held-out drawings of {found['dataset']} at {found['image_size']} px; "
        f"{steps}; seed {found['seed']}; {sample}.",
        "Brackets: 95 % intervals over drawings. Arrows: which way is better. p: how often chance "
        "alone is as far from 0, one metric at a time.",
    ]
    if "color_accuracy" not in found["metrics"]["stage 2"]:
        said.append(
            "No parts with known colours: what is measured of them is left out. Edge F1, line "
            "distance and regions are of dark lines; on photographs the SSIM of edge maps counts."
        )
    return said


def markdown(found: Json) -> str:
    """report.md."""
    parts = [f"# Evaluation of {found['workdir']}", *facts(found)]
    for title, rows in tables(found):
        parts += [f"## {title}", markdown_table(rows)]
    if found["missing"]:
        parts += ["## Not computed", "\n".join(f"- {line}" for line in absent(found["missing"]))]
    return "\n\n".join(parts) + "\n"


def sentences(found: Json) -> list[str]:
    """The report in words, a line a finding."""
    lines = []
    for stage in STAGES:
        estimates = found["metrics"][stage]
        said = []
        for name in _HEADLINES:
            if name in estimates:
                value = _estimate(METRICS[name], estimates[name])
                parts = METRICS[name].needs == "parts"
                of = f" of {estimates[name]['examples']} parts" if parts else ""
                said.append(f"{METRICS[name].title} {value}{of}")
        lines.append(f"{stage}: {', '.join(said)}")
    for stage, by_variant in found["validation"].items():
        true = by_variant["true"]
        lines.append(
            f"{stage}: validation loss {true['mean']:.4f}, spread over seeds {true['spread']:.4f}"
        )
        for variant, loss in by_variant.items():
            if variant != "true":
                heard = "listens" if listens(loss, true) else "does not listen"
                lines.append(
                    f"{stage}: with {variant.replace('_', ' ')} {loss['mean']:.4f}, "
                    f"{loss['gap']:+.4f}: {heard}"
                )
    return lines + absent(found["missing"])


def absent(missing: Mapping[str, str]) -> list[str]:
    """The sentences of what was not computed, in the metrics' order."""
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
    return Titled(section, [["a drawing has, on average", ""], *rows])


def _fusion_table(found: Json) -> Titled:
    balance = found["fusion"] or {"levels": []}
    kinds = [kind for kind in ("all", "drawn", "background") if kind in balance]
    head = ["timestep, share of T", *(f"α of regions: {kind}" for kind in kinds)]
    rows = [
        [f"{level:.1f}", *(_interval(balance[kind]["alpha"][i], 3) for kind in kinds)]
        for i, level in enumerate(balance["levels"])
    ]
    return Titled("How much sketch (α), how much text (β = 1 − α)?", [head, *rows])


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
    return Titled("Does it listen? Loss under other conditions", [["conditions", *STAGES], *rows])


def _comparison_tables(found: Json) -> list[Titled]:
    """A table a stage: this run, the others, and what this one is ahead of each."""
    others, made = found["comparisons"], []
    for stage in STAGES:
        ahead = [text for other in others for text in (f"this − {other}", "p")]
        rows = [["", "this", *others, *ahead]]
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
