"""Sliders of the page for the strengths of LoRAs, which are loaded when the page starts."""

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ragaf_jax.sampling.lora.given import Lora

MOST = 2.0  # range of the sliders: −2 … 2

_PARTS = {"unet": "UNet", "text": "text encoder"}


def lora_sliders(loras: Sequence[Lora], notices: Sequence[str]) -> dict[str, Any]:
    """Two sliders for each LoRA, by name, below what its file records, such as trigger words."""
    sliders = {}
    for i, (lora, notice) in enumerate(zip(loras, notices, strict=True)):
        gr.HTML(html.escape(notice), padding=False)
        with gr.Row():
            for part, title in _PARTS.items():
                sliders[_name(i, part)] = gr.Slider(
                    min(-MOST, getattr(lora, part)),
                    max(MOST, getattr(lora, part)),
                    getattr(lora, part),
                    step=0.05,
                    label=f"{Path(lora.path).stem}, {title}",
                    min_width=130,
                    elem_id=_name(i, part),
                )
    return sliders


def with_loras(settings: dict[str, Any], loras: Sequence[Lora]) -> dict[str, Any]:
    """The settings with `loras` at the strengths of the sliders, in place of these."""
    names = {_name(i, part) for i in range(len(loras)) for part in _PARTS}
    others = {name: value for name, value in settings.items() if name not in names}
    chosen = [
        dataclasses.replace(lora, **{part: settings[_name(i, part)] for part in _PARTS})
        for i, lora in enumerate(loras)
    ]
    return {**others, "loras": chosen}


def _name(index: int, part: str) -> str:
    return f"lora_{index}_{part}"
