"""The sliders of LoRAs and ControlNets, which are loaded when the page starts, and their values."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ragaf_jax.sampling.controls.networks import Control
from ragaf_jax.sampling.lora.settings import Lora

MOST = 2.0  # strengths range from −2 to 2

_LORA = {"unet": "UNet", "text": "text encoder"}
_CONTROL = "strength", "start", "end"


class Slider(NamedTuple):
    """A slider: its label on the page, its value at the start, and its range."""

    label: str
    value: float
    least: float
    most: float


def lora_sliders(loras: Sequence[Lora]) -> list[dict[str, Slider]]:
    """The strengths of each LoRA, by name."""
    return [
        {
            f"lora_{i}_{part}": _strength(f"{Path(lora.path).stem}, {title}", getattr(lora, part))
            for part, title in _LORA.items()
        }
        for i, lora in enumerate(loras)
    ]


def control_sliders(controls: Sequence[Control]) -> list[dict[str, Slider]]:
    """Strength, start and end of each ControlNet, by name; the shares of the steps are in 0 … 1."""
    found = []
    for i, (name, settings) in enumerate((_name(x), x.settings) for x in controls):
        sliders = {f"control_{i}_strength": _strength(f"{name}, strength", settings.strength)}
        for part in ("start", "end"):
            share = float(getattr(settings, part))
            sliders[f"control_{i}_{part}"] = Slider(f"{name}, {part}", share, 0.0, 1.0)
        found.append(sliders)
    return found


def with_networks(
    settings: Mapping[str, Any], loras: Sequence[Lora], controls: Sequence[Control]
) -> dict[str, Any]:
    """The settings with `loras` and `controls` at the values of the sliders, in place of these."""
    others = dict(settings)

    def chosen(base: Any, sliders: Mapping[str, Slider], parts: Iterable[str]) -> Any:
        values = [others.pop(name) for name in sliders]
        return dataclasses.replace(base, **dict(zip(parts, values, strict=True)))

    pairs = zip(loras, lora_sliders(loras), strict=True)
    networks = zip(controls, control_sliders(controls), strict=True)
    found = {
        "loras": [chosen(lora, sliders, _LORA) for lora, sliders in pairs],
        "controls": [chosen(one.settings, sliders, _CONTROL) for one, sliders in networks],
    }
    return others | found


def _name(control: Control) -> str:
    return Path(control.files.where).stem


def _strength(label: str, value: float) -> Slider:
    most = max(MOST, abs(value))
    return Slider(label, float(value), -most, most)
