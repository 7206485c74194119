"""Both stages on held-out drawings: contact sheet, metrics.json, and what they come to in words."""

import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
from PIL import Image
from tqdm import tqdm

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.report import Quality, quality, sentences, spread
from ragaf_jax.graph.draw import draw_regions
from ragaf_jax.graph.regions import Regions
from ragaf_jax.sampling.figures import CELL, SheetRow, contact_sheet
from ragaf_jax.sampling.stages import Stage, make_draw, restore_both, settings_of
from ragaf_jax.training.monitor import make_validate
from ragaf_jax.training.setup import objective_of

# Drawings sampled at a time, and shown on the contact sheet.
CHUNK = SHOWN = 8
SEEDS = (0, 1, 2)


def sample_both(one: Stage, two: Stage, batch: Batch, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures u8[b, s, s, 3] of both stages, as Stage 2's config says."""
    settings = settings_of(two.config)
    draw = make_draw(
        one.model,
        one.process(two.config.sample.sampler, two.config.sample.steps),
        two.model,
        two.process(),
    )
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    count = len(batch.tokens)
    for begin in tqdm(range(0, count, CHUNK), desc="sampling", unit=f"x{CHUNK} drawings"):
        # The last piece begins earlier rather than being of another, uncompiled, size.
        first = min(begin, count - CHUNK)
        piece = jax.tree.map(lambda x, b=first: x[b : b + CHUNK], batch)
        key = jax.random.fold_in(jax.random.key(seed), begin)
        drawn = jax.device_get(draw(one.params, two.params, piece, key, settings))
        pieces.append((drawn.stage1[begin - first :], drawn.stage2[begin - first :]))
    first_stage, second_stage = (np.concatenate(stage) for stage in zip(*pieces, strict=True))
    return first_stage, second_stage


def evaluate(
    config: ml_collections.ConfigDict, workdir: Path, batch: Batch, truth: Truth, output: Path
) -> dict:
    """Scores a Stage 2 workdir and the Stage 1 that it came from; prints and writes what it finds.

    Args:
      config: Stage 2's; its `seed` and `stage1` are used, all else comes from the checkpoints.
      workdir: Stage 2's.
      batch: held-out examples of different drawings, at least `CHUNK`.
      truth: what is true of them.
      output: gets contact_sheet.png and metrics.json.

    Returns:
      What metrics.json holds.
    """
    if config.stage != 2 or not config.stage1:
        raise UserError(
            f"Evaluation compares two stages and was given Stage {config.stage} with config.stage1="
            f"{config.stage1!r}; use configs/stage2.py with --config.stage1=<workdir of Stage 1>."
        )
    if len(batch.tokens) < CHUNK:
        raise UserError(
            f"Evaluation was given {len(batch.tokens)} held-out drawings; it needs {CHUNK}: "
            "prepare the data without --limit, or with a larger one."
        )
    stages = restore_both(Path(config.stage1), workdir)
    pictures = dict(
        zip(("stage 1", "stage 2"), sample_both(*stages, batch, config.seed), strict=True)
    )
    qualities = {name: quality(images, truth) for name, images in pictures.items()}
    losses = {}
    for name, stage in zip(pictures, stages, strict=True):
        validate = make_validate(stage.model, objective_of(stage.config, stage.tokenizer))
        bar = tqdm(SEEDS, desc=f"validation loss of {name}", unit="seed")
        losses[name] = spread([validate(stage.params, batch, seed) for seed in bar])

    output.mkdir(parents=True, exist_ok=True)
    sheet = output / "contact_sheet.png"
    Image.fromarray(_contact_sheet(pictures, batch, truth)).save(sheet)
    metrics = {
        "drawings": len(batch.tokens),
        "steps": {name: stage.step for name, stage in zip(pictures, stages, strict=True)},
        "sample": stages[1].config.sample.to_dict(),
        "seed": config.seed,
        "quality": {name: _as_json(scores) for name, scores in qualities.items()},
        "validation": losses,
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    for line in sentences(qualities, losses):
        print(line)
    print(f"Numbers: {output / 'metrics.json'}")
    print(f"Contact sheet: {sheet}")
    return metrics


def _as_json(scores: Quality) -> dict:
    return {
        name: value._asdict() if hasattr(value, "_asdict") else value
        for name, value in scores._asdict().items()
    }


def _contact_sheet(pictures: dict[str, np.ndarray], batch: Batch, truth: Truth) -> np.ndarray:
    rows = []
    for i in range(SHOWN):
        sketch, count = truth.sketch_u8[i], int(batch.graph.n_node[i, 0])
        regions = Regions(labels=batch.labels[i], n=count, background=np.zeros(count, bool))
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
