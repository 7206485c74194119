"""The strengths of the page's LoRAs, which are loaded when it starts: fields, and their values."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ragaf_jax.sampling.lora.settings import Lora

MOST = 2.0  # sliders range from −2 to 2

_PARTS = {"unet": "UNet", "text": "text encoder"}


class Strength(NamedTuple):
    """The slider of a strength.

    Attributes:
      label: on the page.
      value: at the start.
      most: its range is −most to most.
    """

    label: str
    value: float
    most: float


def strengths(loras: Sequence[Lora]) -> list[dict[str, Strength]]:
    """The sliders of each LoRA, by name."""
    return [
        {
            f"lora_{i}_{part}": Strength(
                f"{Path(lora.path).stem}, {title}",
                getattr(lora, part),
                max(MOST, abs(getattr(lora, part))),
            )
            for part, title in _PARTS.items()
        }
        for i, lora in enumerate(loras)
    ]


def with_loras(settings: Mapping[str, Any], loras: Sequence[Lora]) -> dict[str, Any]:
    """The settings with `loras` at the values of the sliders, in place of these."""
    others, chosen = dict(settings), []
    for lora, sliders in zip(loras, strengths(loras), strict=True):
        values = [others.pop(name) for name in sliders]
        chosen.append(dataclasses.replace(lora, **dict(zip(_PARTS, values, strict=True))))
    return {**others, "loras": chosen}
