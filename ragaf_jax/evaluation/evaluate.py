"""Evaluates both stages on held-out examples: all metrics, a report and a printed summary."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ml_collections
from PIL import Image
from tqdm import tqdm

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.checkpoints.choice import NEWEST
from ragaf_jax.diffusion.build import schedule_of
from ragaf_jax.evaluation.examples import Examples, features_of
from ragaf_jax.evaluation.held_out_trace import HeldOutTrace, make_trace
from ragaf_jax.evaluation.metrics.attention import attention_scores
from ragaf_jax.evaluation.metrics.sketch_fidelity import Extract
from ragaf_jax.evaluation.perception import load_networks, notices
from ragaf_jax.evaluation.report.illustrations import Row, figures, ranked_rows
from ragaf_jax.evaluation.report.numbers import STAGES, markdown, sentences
from ragaf_jax.evaluation.report.page import report_page
from ragaf_jax.evaluation.sampled import restore_stages, sample_both
from ragaf_jax.evaluation.scoring import Missing, Scores, score
from ragaf_jax.evaluation.statistics.comparison import compared, differences, read_evaluation
from ragaf_jax.evaluation.statistics.fusion_balance import fusion_summary, region_balance
from ragaf_jax.evaluation.statistics.summary import (
    NUMBERS,
    Estimate,
    Json,
    as_json,
    estimates,
    spread,
    stored,
)
from ragaf_jax.figures.lettering import Rgb
from ragaf_jax.folders import whole_files
from ragaf_jax.framing import bucket_name
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.validation import make_validate
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.tokenizer import Tokenizer

SEEDS = (0, 1, 2)

# In the output folder: the sampled images, figures by title, and the files printed at the end.
SAMPLED = "sampled"
FILES = {"Held-out examples": "contact_sheet.png", "Losses": "curves.png"}
PRINTED = {"Numbers": NUMBERS, "Contact sheet": "contact_sheet.png", "Report": "report.html"}


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    open_held_out: Callable[[ml_collections.ConfigDict, Tokenizer], tuple[Batch, Truth]],
    output: Path,
    extract: Extract,
    compare: Sequence[Path] = (),
    checkpoint: str = NEWEST,
) -> Json:
    """Scores a Stage 2 workdir and its Stage 1; prints a summary and writes the report.

    Args:
      config: Stage 2's; `stage1`, `stage1_checkpoint`, `seed`, `sample` and `metrics` are used.
        The networks come from the checkpoints.
      workdir: Stage 2's.
      open_held_out: takes the configuration and tokenizer of Stage 2's checkpoint and returns two
        or more held-out examples with different sketches, and their ground truth.
      output: receives report.html, report.md, metrics.json, contact_sheet.png and curves.png, all
        or none. Sampled images are stored at once, so an interrupted evaluation resumes.
      extract: as in `sketch_fidelity.edge_maps`.
      compare: outputs of other evaluations with the same examples and seed.
      checkpoint: of Stage 2: "newest", "best" or a step.

    Returns:
      The contents of metrics.json:
        workdir, dataset, image_size, drawings, steps, sample, seed: the settings; `drawings` is the
          number of examples, and `sizes` that of each size of image.
        metrics: an `Estimate` by stage and metric; graphs: by metric of region graphs.
        differences: Stage 2 − Stage 1 by metric, a `Difference` each.
        missing: by metric, the reason why it was not computed.
        validation: by stage and conditions, `spread` of the losses.
        fusion: the result of `fusion_summary`; None without RAGAF.
        comparisons: by folder, "metrics" of the other run and "differences" from it by stage.
        values: "keys" of the examples, and by stage the result of `stored`.
    """
    one, two = restore_stages(config, workdir, checkpoint, "Evaluation")
    stages = dict(zip(STAGES, (one, two), strict=True))
    batch, truth = open_held_out(two.config, two.tokenizer)
    size = two.config.data.image_size
    names = [bucket_name(sketch.shape) for sketch in truth.sketch_u8]
    sizes = {name: names.count(name) for name in dict.fromkeys(names)}
    others = {str(x): read_evaluation(x, truth.keys, config.seed, size, sizes) for x in compare}
    networks, missing = load_networks(config.metrics.to_dict())
    for line in notices(config.metrics.to_dict(), missing):
        print(line)  # before sampling, which takes long
    output.mkdir(parents=True, exist_ok=True)

    sampled = sample_both(config, one, two, batch, output / SAMPLED)
    by_stage = dict(zip(STAGES, sampled, strict=True))
    trace, fusion, attention = trace_of(two, batch, config.seed), None, None
    if trace is not None:
        fusion = fusion_summary(region_balance(trace.fusion, batch.graph), trace.levels)
        attention = attention_scores(trace.attention[0], batch, truth, two.tokenizer)
    known = Examples(
        truth, extract=extract, networks=networks, true=features_of(networks, truth.image_u8)
    )
    examples = {stage: replace(known, images=images) for stage, images in by_stage.items()}
    examples["stage 2"] = replace(examples["stage 2"], attention=attention)
    scores, found, unmeasured = _measured(examples)
    graphs, *_ = score(Examples(truth, graph=batch.graph))

    values = {stage: stored(x) for stage, x in scores.items()}
    result: Json = {
        "workdir": str(workdir),
        "dataset": two.config.data.dataset,
        "image_size": size,
        "drawings": len(truth.keys),
        "sizes": sizes,
        "steps": {name: stage.step for name, stage in stages.items()},
        "sample": config.sample.to_dict(),
        "seed": config.seed,
        "metrics": {stage: as_json(x) for stage, x in found.items()},
        "graphs": as_json(estimates(graphs)[0]),
        "differences": as_json(differences(values["stage 2"], values["stage 1"], truth.keys)),
        "missing": missing | unmeasured,
        "validation": {name: _losses(name, stage, batch) for name, stage in stages.items()},
        "fusion": fusion,
        "comparisons": {
            name: compared(values, other, truth.keys) for name, other in others.items()
        },
        "values": {"keys": list(truth.keys), **values},
    }
    folders = dict(zip(STAGES, (Path(config.stage1), workdir), strict=True))
    logs = {name: folder / "logs" / "metrics.jsonl" for name, folder in folders.items()}
    logs = {name: log for name, log in logs.items() if log.exists()}
    shown = figures(by_stage, batch, truth, two.tokenizer, trace, fusion, logs)
    rows = ranked_rows(scores["stage 2"], by_stage, truth)
    _write(output, result, rows, shown)
    printed = set(missing.values())
    print(*(line for line in sentences(result) if line not in printed), sep="\n")
    for what, name in PRINTED.items():
        print(f"{what}: {output / name}")
    return result


def _measured(
    examples: Mapping[str, Examples],
) -> tuple[dict[str, Scores], dict[str, dict[str, Estimate]], Missing]:
    """Values and estimates by stage."""
    scores: dict[str, Scores] = {}
    found: dict[str, dict[str, Estimate]] = {}
    missing = Missing()
    for stage, known in examples.items():
        scores[stage], sets, uncomputed = score(known)
        found[stage], undefined = estimates(scores[stage])
        count = len(known.truth.keys)
        found[stage] |= {name: Estimate(*x, count) for name, x in sets.items()}
        missing |= uncomputed | undefined
    # A metric is missing if neither stage has it; tables show gaps of one stage.
    missing = {
        name: why
        for name, why in missing.items()
        if not any(name in estimated for estimated in found.values())
    }
    return scores, found, missing


def trace_of(stage: Stage, batch: Batch, seed: int) -> HeldOutTrace | None:
    """The trace of a Stage 2 on the examples; None without RAGAF."""
    if stage.model.ragaf is None:
        return None
    return make_trace(stage.model, schedule_of(stage.config))(stage.params, batch, seed)


def _losses(name: str, stage: Stage, batch: Batch) -> dict[str, dict[str, float]]:
    validate = make_validate(stage.model, objective_of(stage.config, stage.tokenizer))
    bar = tqdm(SEEDS, desc=f"validation loss of {name}", unit=" seed")
    return spread([validate(stage.params, batch, seed) for seed in bar])


def _write(
    output: Path, result: Json, rows: Mapping[str, Sequence[Row]], shown: Mapping[str, Rgb]
) -> None:
    """All files of the report, or none."""
    numbers = {name: value for name, value in result.items() if name != "values"}
    begun = json.dumps(numbers, indent=1, ensure_ascii=False).removesuffix("\n}")
    texts = {
        # One number per line, except the many values: these are the last line.
        NUMBERS: f'{begun},\n "values": {json.dumps(result["values"])}\n}}\n',
        "report.md": markdown(result),
        "report.html": report_page(result, rows, shown),
    }
    with whole_files(output) as folder:
        for title, name in FILES.items():
            if title in shown:
                Image.fromarray(shown[title]).save(folder / name)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
