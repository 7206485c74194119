"""Scores of a variant's images of held-out examples."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from input_pipeline.configured import held_out_for
from ragaf_jax.batch import Batch, Truth
from ragaf_jax.evaluation.evaluate import trace_of
from ragaf_jax.evaluation.examples import Examples
from ragaf_jax.evaluation.held_out_trace import HeldOutTrace
from ragaf_jax.evaluation.metrics.attention import attention_scores
from ragaf_jax.evaluation.metrics.leakage import leakage
from ragaf_jax.evaluation.sampled import sample_both
from ragaf_jax.evaluation.scoring import score as score_metrics
from ragaf_jax.sampling.stages import restore_both
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import with_fields

Values = dict[str, Any]
Images = UInt8[np.ndarray, "b s s 3"]


def score(
    stage1: Path, stage2: Path, data_dir: Path, examples: int, seed: int
) -> tuple[dict[str, Values], Images, Truth]:
    """Samples both stages on test examples and scores the images.

    Args:
      stage1, stage2: workdirs.
      data_dir: of Stage 2's data.
      examples: number of test examples, or all if there are fewer.
      seed: of the samples.

    Returns:
      The values of "stage1" and "stage2", see `values_of`; Stage 2's images; the truth.
    """
    one, two = restore_both(stage1, stage2)
    fields = {"data.dir": str(data_dir), "evaluation_examples": examples, "seed": seed}
    config = with_fields(two.config, fields)
    batch, truth = held_out_for(config, two.config, two.tokenizer)
    first, second = sample_both(config, one, two, batch)
    found = {"stage1": values_of(first, truth), "stage2": values_of(second, truth)}
    trace = trace_of(two, batch, seed)
    if trace is not None:
        found["stage2"] |= words_of(trace, batch, truth, two.tokenizer)
    return found, second, truth


def values_of(images: Images, truth: Truth) -> Values:
    """The scores as lists for JSON.

    Returns:
      keys, edge_f1: of each example.
      drawing, part, requested, obtained, near, far, near_chance, far_chance: of each part, see
        `evaluation.metrics.leakage.Leakage`.
    """
    parts = leakage(images, truth)
    return {
        "keys": list(truth.keys),
        "edge_f1": _listed(Examples(truth, images).edges[:, 2]),
        **{name: _listed(column) for name, column in parts._asdict().items()},
    }


def words_of(trace: HeldOutTrace, batch: Batch, truth: Truth, tokenizer: Tokenizer) -> Values:
    """Attention scores of the regions at the noisiest level, where no colours are visible yet.

    Returns:
      attention_drawing: the example of each region; by each of `METRICS` that needs attention,
      its values and, as <metric>_chance, those of random guesses. Nothing without regions.
    """
    attention = attention_scores(trace.attention[0], batch, truth, tokenizer)
    found: Values = {}
    for name, values in score_metrics(Examples(truth, attention=attention))[0].items():
        found |= {"attention_drawing": _listed(values.drawing), name: _listed(values.value)}
        found[f"{name}_chance"] = _listed(values.chance)
    return found


def _listed(column: np.ndarray) -> list:
    if column.dtype.kind == "b":
        return column.astype(int).tolist()
    return column.round(4).tolist() if column.dtype.kind == "f" else column.tolist()
