"""Model cards of exported weights, from the run's configuration and metrics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ragaf_jax.weights.locate import HUB_ID


def model_card(
    title: str,
    parts: Sequence[str],
    usage: str,
    config: Mapping[str, Any],
    step: int,
    metrics: Mapping[str, float],
) -> str:
    """Markdown with the hub's YAML header, for a folder with `parts`, one line each.

    `usage` is Python code that loads it; `step` is the number of updates; `metrics` are the last
    measurements by name and may be empty.
    """
    init, base = config["init"], config["init"]["checkpoint"]
    header = ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["stable-diffusion", "controlnet", "sketch-to-image", "jax", "ragaf-jax"],
        base_model=_repository(base),
    )
    loaded = {"sketch branch": init["control"], "VAE": init["vae"], "LoRA": init["lora"]}
    loaded = loaded if base else {}
    sizes = ", ".join(config["data"]["buckets"]) or config["data"]["image_size"]
    rows = {
        "stage": config["stage"],
        "started from": base or "random numbers",
        **{f"{name} started from": place for name, place in loaded.items() if place},
        "data": f"{config['data']['dataset']} at {sizes} px",
        "updates": step,
        "examples an update": config["train"]["batch_size"],
        "learning rate": config["train"]["learning_rate"],
        "trained": ", ".join(f"`{x}`" for x in config["train"]["trainable"]),
        "the UNet predicts": config["diffusion"]["prediction"],
        "last layers of the text encoder skipped (clip_skip)": config["model"]["clip_skip"],
        "weights": "exponential moving average",
    }
    modules = [m for m in ("diffusers", "transformers", "safetensors.numpy") if m in usage]
    imports = "".join(f"import {module}\n" for module in modules)
    contents = "".join(f"- {part}\n" for part in parts)
    table = ["| {} | {} |".format(name, str(x).replace("|", "\\|")) for name, x in rows.items()]
    measured = ["| measured last | value |", "|---|---|"]
    measured += [f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items())]
    training, metric_table = "\n".join(table), "\n".join(measured)
    return f"""---
{header.to_yaml()}
---
# {title}

Trained with RAGAF-JAX, which generates images from a sketch and a prompt.

{contents}
The input sketch has **white ink on black**, in [0, 1].

```python
{imports}
{usage.strip()}
```

## Training

| | |
|---|---|
{training}

## Metrics

{metric_table if metrics else "None were measured."}

<details><summary>Configuration</summary>

```json
{json.dumps(config, indent=1, ensure_ascii=False)}
```

</details>
"""


def _repository(base: str) -> str | None:
    """The hub repository of a checkpoint, or None for a local one."""
    if not HUB_ID.fullmatch(base) or Path(base).exists():
        return None
    return "/".join(base.split("/")[:2])
