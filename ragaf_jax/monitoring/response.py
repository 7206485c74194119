"""Interprets the condition response: does the model use its conditions, and since when?

A diffusion model's loss falls whether or not it looks at its conditions, and a ControlNet begins to
follow its own all at once, after thousands of steps in which it does not ("sudden convergence",
Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models", §3.3 and fig. 4).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

# What JSON can hold: of each condition its last measurement, since when it is obeyed, and whether
# that it is not has been said. A run begins with none.
ResponseState = dict[str, Any]

# To be obeyed a condition must matter by so many standard errors and such a share of the loss,
# twice in a row; it is heard from so many standard errors on.
OBEYED_ERRORS, OBEYED_SHARE, HEARD_ERRORS = 3.0, 0.01, 2.0

# Of every condition, whose it is when it is another's, and what to look at when it goes unheard.
_CONDITIONS = {
    "sketch": (
        "another drawing's sketch",
        "Check that config.train.trainable trains control/.* and that config.train.sketch_dropout "
        "is below 1.",
    ),
    "graph": (
        "another drawing's region graph",
        "Check that config.train.trainable trains ragaf/.* and that config.train.sketch_dropout is "
        "below 1.",
    ),
    "text": (
        "another drawing's caption",
        "Check that config.train.trainable trains unet/.*/attn2/.* or starts from weights that "
        "read text, that config.train.text_dropout is below 1, and that the captions differ.",
    ),
}


class Response(NamedTuple):
    """How much a model listens to a condition: 0 not at all, 1 when the loss doubles without it.

    Attributes:
      mean: over examples, of the share by which each one's loss grows.
      error: the mean's standard error.
    """

    mean: float
    error: float


def response(true: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> Response:
    """The mean over examples of (other − true) / true, with its standard error.

    Each example is its own control: both losses are of one picture under the same noise, and what
    is compared is by which share the loss grows, since losses of different pictures differ far more
    than those of one. Exactly 0 ± 0 where every pair is equal to the bit. Negative where the
    condition misleads.

    true: losses > 0 under an example's own condition; other: under that of another. n ≥ 2.
    """
    true = true.astype(np.float64)
    shares = (other - true) / true
    return Response(float(shares.mean()), float(shares.std(ddof=1) / math.sqrt(len(shares))))


def observe(
    state: ResponseState, step: int, values: Mapping[str, float], warn_after: int
) -> tuple[ResponseState, list[str]]:
    """Takes a measurement in and says what is new: that a condition is obeyed, or is not heard.

    A condition is obeyed when two measurements in a row are above 0.01 and above 3 standard errors;
    reported once, with the step of the first. It is unheard when its response is no more than 2
    standard errors above 0, at `warn_after` or later and in the measurement before as well, where
    there is one; said once. So a ControlNet is given its time of exact zeros, and one measurement
    that chance has spoiled says nothing.

    Args:
      state: what the call before gave; {} at first. JSON can hold it.
      step: of the measurement.
      values: `response/<condition>` and `response/<condition>_error` of sketch, text and, in
        Stage 2, graph; more are not read, except edge F1 for the sentence.
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
        obeyed, warned = known.get("obeyed"), known.get("warned", False)
        if obeyed is None and before and _obeys(before) and _obeys(now):
            obeyed = known["step"]
            sentences.append(_obeyed(condition, obeyed, now, values))
        unheard = not _heard(now) and (before is None or not _heard(before))
        if step >= warn_after and unheard and not warned:
            warned = True
            sentences.append(_unheard(condition, step, now))
        state[condition] = {"step": step, "last": list(now), "obeyed": obeyed, "warned": warned}
    return state, sentences


def _obeys(measured: Response) -> bool:
    return measured.mean > max(OBEYED_ERRORS * measured.error, OBEYED_SHARE)


def _heard(measured: Response) -> bool:
    return measured.mean > HEARD_ERRORS * measured.error


def _obeyed(condition: str, since: int, now: Response, values: Mapping[str, float]) -> str:
    others, _ = _CONDITIONS[condition]
    sentence = (
        f"The model obeys the {condition} from step {since} on: with {others} the held-out loss is "
        f"{100 * now.mean:.1f} ± {100 * now.error:.1f} % higher"
    )
    if condition == "sketch" and "response/true_edge_f1" in values:
        own, other = (values[f"response/{x}_edge_f1"] for x in ("true", "shuffled_sketch"))
        sentence += f", and samples have edge F1 {own:.2f} with their own, {other:.2f} with that"
    return sentence + "."


def _unheard(condition: str, step: int, now: Response) -> str:
    others, advice = _CONDITIONS[condition]
    if now == Response(0.0, 0.0):
        return (
            f"response/{condition} is 0.0 after {step} steps: with {others} the held-out loss is "
            f"the same to the last bit, so the model does not look at the {condition}. {advice}"
        )
    return (
        f"response/{condition} is {now.mean:.2g} ± {now.error:.1g} after {step} steps, which may "
        f"be chance: there is no sign yet that the model looks at the {condition}. With a small "
        f"learning rate that can take thousands of steps; should it stay so: {advice}"
    )
