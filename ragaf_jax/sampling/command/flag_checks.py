"""Refuses flags of `ragaf_jax.sample` that exclude each other or have no effect."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ragaf_jax.errors import UserError

# Flags for one sketch, each with the field of --prompts that replaces it in a batch.
_ONE_SKETCH = {
    "sketch": None,
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "region": "regions",
    "negative_region": "negative_regions",
    "merge": None,
    "labels": None,
    "image": None,
    "control_image": "control_images",
    "count": None,
}
_BATCH = ("prompts", "per_device")


def check_for_batch(given: Collection[str]) -> None:
    """Raises `UserError` for the first flag for one sketch among those `given` with --sketches."""
    for name, field in _ONE_SKETCH.items():
        if name in given:
            row = (
                f"set the field {field!r} of --prompts, a .csv or .jsonl with a row for each sketch"
            )
            instead = "leave it out" if field is None else row
            raise UserError(f"--{name} is for one sketch and --sketches gives many; {instead}.")


def check_letterbox(width: int | None, height: int | None, letterbox: bool) -> None:
    """Refuses --letterbox where both sides are given, because it determines neither."""
    if letterbox and width is not None and height is not None:
        raise UserError(
            f"--letterbox is given with --width={width} and --height={height}, which already "
            "determine the image; omit --letterbox, or one of them."
        )


def check_for_one(given: Collection[str]) -> None:
    """Raises `UserError` for the first flag for a batch among those given without --sketches."""
    for name in _BATCH:
        if name in given:
            instead = "give --prompt" if name == "prompts" else "leave it out"
            raise UserError(f"--{name} is for the sketches of --sketches; for --sketch, {instead}.")


def check_batch_output(output: Path, sketches: Path) -> None:
    """Refuses the folder of the sketches as output: outputs would be read as sketches."""
    if output.resolve() == sketches.resolve():
        raise UserError(
            f"--output is {output}, the folder of the sketches; choose another, such as "
            f"{output / 'outputs'}."
        )


def check_inputs_survive(output: Path, files: Mapping[str, str | None]) -> None:
    """Refuses input files in the output folder, because the new output would replace them.

    Args:
      output: the folder.
      files: paths by flag name; None where a flag is not given.
    """
    for name, file in files.items():
        if file is not None and Path(file).resolve().is_relative_to(output.resolve()):
            raise UserError(
                f"--{name} is {file}, which lies in --output and would be replaced; choose another "
                "--output."
            )


def unused_strength(given: Collection[str], stages: str, has_image: bool) -> list[str]:
    """A notice where --strength is given and no stage uses it.

    Args:
      given: as in `check_for_batch`.
      stages: as in `Options`.
      has_image: whether the first stage starts from an image.
    """
    if "strength" not in given or has_image or stages == "both":
        return []
    return [f"--strength has no effect: without --image, Stage {stages} starts from noise."]
