"""Interprets the condition response: does the model use its conditions, and since when?

A diffusion model's loss falls even if the model ignores its conditions. A ControlNet ignores its
sketch for thousands of steps and then follows it suddenly ("sudden convergence", Zhang et al. 2023,
"Adding Conditional Control to Text-to-Image Diffusion Models", §3.3 and fig. 4).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

# JSON-able; by condition: the last measurement, the step since which the model follows it, and
# whether a warning was given. Empty at the start of a run.
ResponseState = dict[str, Any]

# A condition is followed if two consecutive responses exceed 3 standard errors and 0.01 of the
# loss. It has an effect if its response exceeds 2 standard errors.
FOLLOWED_ERRORS, FOLLOWED_SHARE, EFFECT_ERRORS = 3.0, 0.01, 2.0

_TRAINED = (
    "Check that config.train.trainable trains {} and that config.train.sketch_dropout is below 1."
)

# By condition: its replacement in the comparison, and advice if it has no effect.
_CONDITIONS = {
    "sketch": ("another image's sketch", _TRAINED.format("control/.*")),
    "graph": ("another image's region graph", _TRAINED.format("ragaf/.*")),
    "text": (
        "another image's caption",
        "Check that config.train.trainable trains unet/.*/attn2/.* or that the initial weights use "
        "text, that config.train.text_dropout is below 1, and that the captions differ.",
    ),
}


class Response(NamedTuple):
    """How much a model uses a condition: 0 not at all, 1 if the loss doubles without it.

    Attributes:
      mean: of the relative growth of each example's loss.
      error: the mean's standard error.
    """

    mean: float
    error: float


def response(true: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> Response:
    """The mean over examples of (other − true) / true, with its standard error.

    Each example is its own control: both losses belong to one image and the same noise. Relative
    growth is compared, because losses of different images differ far more than those of one image.
    Exactly 0 ± 0 if every pair is equal to the bit. Negative if the condition misleads.

    true: losses > 0 under an example's own condition; other: under that of another. n ≥ 2.
    """
    true = true.astype(np.float64)
    shares = (other - true) / true
    return Response(float(shares.mean()), float(shares.std(ddof=1) / math.sqrt(len(shares))))


def observe(
    state: ResponseState, step: int, values: Mapping[str, float], warn_after: int
) -> tuple[ResponseState, list[str]]:
    """Adds a measurement and reports each condition that is newly followed or without effect.

    A followed condition is reported once, with the step of the first of the two responses. One
    without effect at `warn_after` or later, and also in the previous measurement, if any, gives one
    warning. This allows for a ControlNet's initial zeros and for one unlucky measurement.

    Args:
      state: of the previous call; {} at first.
      step: of the measurement.
      values: `response/<condition>` and `response/<condition>_error` of sketch, text and, in
        Stage 2, graph; the sentence also uses edge F1.
      warn_after: config.response.warn_after.

    Returns:
      The new state, and sentences to show.
    """
    state, sentences = dict(state), []
    for condition in _CONDITIONS:
        name = f"response/{condition}"
        if name not in values:
            continue
        now = Response(float(values[name]), float(values[f"{name}_error"]))
        if not (math.isfinite(now.mean) and math.isfinite(now.error)):
            continue
        known = state.get(condition, {})
        before = Response(*known["last"]) if known else None
        since, warned = known.get("obeyed"), known.get("warned", False)
        if since is None and before and _follows(before) and _follows(now):
            since = known["step"]
            sentences.append(_followed(condition, since, now, values))
        ignored = not _has_effect(now) and (before is None or not _has_effect(before))
        if step >= warn_after and ignored and not warned:
            warned = True
            sentences.append(_ignored(condition, step, now))
        state[condition] = {"step": step, "last": list(now), "obeyed": since, "warned": warned}
    return state, sentences


def _follows(measured: Response) -> bool:
    return measured.mean > max(FOLLOWED_ERRORS * measured.error, FOLLOWED_SHARE)


def _has_effect(measured: Response) -> bool:
    return measured.mean > EFFECT_ERRORS * measured.error


def _followed(condition: str, since: int, now: Response, values: Mapping[str, float]) -> str:
    other_condition, _ = _CONDITIONS[condition]
    sentence = (
        f"The model follows the {condition} from step {since} on: with {other_condition} the "
        f"held-out loss is {100 * now.mean:.1f} ± {100 * now.error:.1f} % higher"
    )
    if condition == "sketch" and "response/true_edge_f1" in values:
        own, other = (values[f"response/{x}_edge_f1"] for x in ("true", "shuffled_sketch"))
        sentence += f", and the edge F1 of samples is {other:.2f} instead of {own:.2f}"
    return sentence + "."


def _ignored(condition: str, step: int, now: Response) -> str:
    other_condition, advice = _CONDITIONS[condition]
    if now == Response(0.0, 0.0):
        return (
            f"response/{condition} is 0.0 after {step} steps: with {other_condition} the held-out "
            f"loss is bit-identical, so the model ignores the {condition}. {advice}"
        )
    return (
        f"response/{condition} is {now.mean:.2g} ± {now.error:.1g} after {step} steps, which may "
        f"be chance: the model may ignore the {condition}. With a small learning rate a response "
        f"can take thousands of steps; if it does not grow: {advice}"
    )
