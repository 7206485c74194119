"""Both stages on held-out drawings: contact sheet, metrics.json, and what they come to in words."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from PIL import Image
from tqdm import tqdm

from ragaf_jax.batch import Batch, Truth, in_chunks
from ragaf_jax.contact_sheet import CELL, SheetRow, contact_sheet
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.report import Quality, quality, sentences, spread
from ragaf_jax.graph.draw import draw_regions
from ragaf_jax.graph.features import NODE_FEATURES
from ragaf_jax.graph.regions import Regions
from ragaf_jax.sampling.curves import curves
from ragaf_jax.sampling.stages import Stage, make_draw, restore_both, settings_of
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.monitor import make_validate
from ragaf_jax.training.setup import objective_of

# Drawings sampled at a time, and shown on the contact sheet.
CHUNK = SHOWN = 8
SEEDS = (0, 1, 2)


def sample_both(
    config: ml_collections.ConfigDict, one: Stage, two: Stage, batch: Batch
) -> tuple[np.ndarray, np.ndarray]:
    """The pictures u8[b, s, s, 3] of both stages, as `config.sample` and `config.seed` say."""
    sampler, steps = config.sample.sampler, config.sample.steps
    draw = make_draw(one.model, one.process(sampler, steps), two.model, two.process(sampler, steps))
    settings = settings_of(config.sample.to_dict())
    params1, params2 = jax.device_put((one.params, two.params))
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    with tqdm(total=len(batch.tokens), desc="sampling", unit=" drawings") as bar:
        for i, (piece, fresh) in enumerate(in_chunks(batch, CHUNK)):
            key = jax.random.fold_in(jax.random.key(config.seed), i)
            drawn = jax.device_get(draw(params1, params2, piece, key, settings))
            pieces.append((drawn.stage1[fresh], drawn.stage2[fresh]))
            bar.update(len(pieces[-1][0]))
    first_stage, second_stage = (np.concatenate(stage) for stage in zip(*pieces, strict=True))
    return first_stage, second_stage


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    open_held_out: Callable[[ml_collections.ConfigDict, Tokenizer], tuple[Batch, Truth]],
    output: Path,
) -> dict:
    """Scores a Stage 2 workdir and the Stage 1 that it came from; prints and writes what it finds.

    Args:
      config: Stage 2's; `stage1`, `seed` and `sample` are used. What is trained comes from the
        checkpoints.
      workdir: Stage 2's.
      open_held_out: gives two or more held-out examples of different drawings and what is true of
        them, made for the configuration and the vocabulary of Stage 2's checkpoint.
      output: gets contact_sheet.png, curves.png and metrics.json.

    Returns:
      What metrics.json holds.
    """
    if config.stage != 2 or not config.stage1:
        raise UserError(
            f"Evaluation compares two stages and was given Stage {config.stage} with config.stage1="
            f"{config.stage1!r}; use configs/stage2.py with --config.stage1=<workdir of Stage 1>."
        )
    workdirs = (Path(config.stage1), workdir)
    stages = restore_both(*workdirs)
    batch, truth = open_held_out(stages[1].config, stages[1].tokenizer)
    output.mkdir(parents=True, exist_ok=True)
    drawn = sample_both(config, *stages, batch)
    pictures = dict(zip(("stage 1", "stage 2"), drawn, strict=True))
    qualities = {name: quality(images, truth) for name, images in pictures.items()}
    losses = {}
    for name, stage in zip(pictures, stages, strict=True):
        validate = make_validate(stage.model, objective_of(stage.config, stage.tokenizer))
        bar = tqdm(SEEDS, desc=f"validation loss of {name}", unit="seed")
        losses[name] = spread([validate(stage.params, batch, seed) for seed in bar])

    metrics = {
        "drawings": len(batch.tokens),
        "steps": {name: stage.step for name, stage in zip(pictures, stages, strict=True)},
        "sample": config.sample.to_dict(),
        "seed": config.seed,
        "quality": {name: _as_json(scores) for name, scores in qualities.items()},
        "validation": losses,
    }
    sheet, numbers = output / "contact_sheet.png", output / "metrics.json"
    Image.fromarray(_contact_sheet(pictures, batch, truth)).save(sheet)
    logs = [folder / "logs" / "metrics.jsonl" for folder in workdirs]
    if all(map(Path.exists, logs)):  # checkpoints may have come here without them
        figure = curves(dict(zip(pictures, logs, strict=True)))
        Image.fromarray(figure).save(output / "curves.png")
    numbers.write_text(json.dumps(metrics, indent=1) + "\n")
    for line in sentences(qualities, losses):
        print(line)
    print(f"Numbers: {numbers}")
    print(f"Contact sheet: {sheet}")
    return metrics


def _as_json(scores: Quality) -> dict:
    return {
        name: value._asdict() if hasattr(value, "_asdict") else value
        for name, value in scores._asdict().items()
    }


def _contact_sheet(pictures: dict[str, np.ndarray], batch: Batch, truth: Truth) -> np.ndarray:
    rows = []
    for i in range(min(SHOWN, len(truth.keys))):
        sketch, count = truth.sketch_u8[i], int(batch.graph.n_node[i, 0])
        background = batch.graph.nodes[i, :count, NODE_FEATURES.index("background")] > 0
        regions = Regions(labels=batch.labels[i], n=count, background=background)
        side = len(sketch) * -(-CELL // len(sketch))
        drawn = Image.fromarray(draw_regions(sketch, regions)).resize((side, side))
        cells = (
            sketch,
            np.array(drawn),
            *(images[i] for images in pictures.values()),
            truth.image_u8[i],
        )
        rows.append(SheetRow(cells, truth.captions[i]))
    return contact_sheet(rows, ("sketch", "regions", *pictures, "true"))
