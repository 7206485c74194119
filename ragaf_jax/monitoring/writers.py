"""Writers of numbers and images: terminal, metrics.jsonl, TensorBoard, PNG files, W&B."""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import SupportsFloat

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from ragaf_jax.errors import UserError, wrapped

Scalars = Mapping[str, SupportsFloat]
Images = Mapping[str, UInt8[np.ndarray, "h w 3"]]

# The scalars that the terminal shows beside the loss; the files have all.
SHOWN = (
    "validation/true",
    "validation/shuffled_sketch",
    "validation/shuffled_text",
    "validation/shuffled_graph",
    "response/sketch",
    "response/text",
    "response/graph",
    "response/sketch_edge_f1",
)


class Writer:
    """The interface of writers; a writer overrides the methods that it supports."""

    def scalars(self, step: int, values: Scalars) -> None:
        """Scalars by name, after `step` updates."""

    def images(self, step: int, values: Images) -> None:
        """Images by name, after `step` updates."""

    def text(self, step: int, name: str, sentence: str) -> None:
        """A message, such as a warning, after `step` updates; `name` is its topic."""

    def close(self) -> None:
        """Ends the records."""


class Terminal(Writer):
    """One progress line with loss, images/s and the time left; some scalars above it.

    A step has `batch_size` images over all devices; `first_step` is the one resumed from, or 0.
    """

    def __init__(self, total_steps: int, batch_size: int, first_step: int = 0):
        self._total = total_steps
        self._bar = tqdm(
            desc=f"step {first_step}/{total_steps}",
            total=total_steps,
            initial=first_step,
            unit=" images",
            unit_scale=batch_size,  # tqdm's rate is in images per second
            bar_format="{desc} {percentage:3.0f}%|{bar:24}| {rate_fmt}, {remaining} left{postfix}",
            # In a log file every refresh is a separate line.
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )

    def scalars(self, step: int, values: Scalars) -> None:
        """Updates the progress line if there is a `loss`, else prints the `SHOWN` scalars above."""
        if "loss" in values:
            self._bar.set_description_str(f"step {step}/{self._total}", refresh=False)
            self._bar.set_postfix_str(f"loss {float(values['loss']):.4f}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif shown := [name for name in values if name in SHOWN]:
            self.text(step, "", ", ".join(f"{name} {float(values[name]):.4g}" for name in shown))

    def text(self, step: int, name: str, sentence: str) -> None:
        """A separate line above the progress line."""
        self._bar.write(wrapped(f"step {step}: {sentence}"), file=sys.stderr)

    def close(self) -> None:
        """Leaves the last progress line on the terminal."""
        self._bar.refresh()
        self._bar.close()


class JsonLines(Writer):
    """One JSON object per line: `{"step": 20, "loss": 0.31, …}`.

    A resumed run repeats the steps after its checkpoint, so their lines, and any truncated line,
    are removed first.

    Args:
      path: the file; its folder is created.
      first_step: lines of later steps are removed.
    """

    def __init__(self, path: Path, first_step: int = 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= first_step]
            rewritten = path.with_suffix(".tmp")
            rewritten.write_text("".join(f"{line}\n" for line in kept))
            rewritten.replace(path)
        self._file = path.open("a", buffering=1)  # line-buffered, for `tail -f`

    def scalars(self, step: int, values: Scalars) -> None:
        """Appends a line, from which every float can be read back exactly."""
        numbers = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step} | numbers) + "\n")

    def text(self, step: int, name: str, sentence: str) -> None:
        """Appends `{"step": 20, "message": "…"}`."""
        self._file.write(json.dumps({"step": step, "message": sentence}) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard(Writer):
    """Event files for TensorBoard, which hides earlier records of steps after `first_step`."""

    def __init__(self, folder: Path, first_step: int = 0):
        purge = first_step + 1 if first_step else None
        self._writer = _summary_writer()(str(folder), purge_step=purge)

    def scalars(self, step: int, values: Scalars) -> None:
        """One curve per name."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def images(self, step: int, values: Images) -> None:
        """One slider per name."""
        for name, image in values.items():
            self._writer.add_image(name, image, step, dataformats="HWC")

    def text(self, step: int, name: str, sentence: str) -> None:
        """One list of sentences per name."""
        self._writer.add_text(name, sentence, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._writer.close()


class PngFiles(Writer):
    """Images as `<folder>/<step>_<name>.png`."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def images(self, step: int, values: Images) -> None:
        """One file per image; the step has leading zeros, so that names sort by it."""
        for name, image in values.items():
            Image.fromarray(image).save(self._folder / f"{step:07d}_{name}.png")


class WandB(Writer):
    """Weights & Biases: a run with the workdir's name, continued after a resume.

    Raises:
      UserError: wandb is not installed.
    """

    def __init__(self, project: str, workdir: Path, config: Mapping):
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError:
            raise UserError(
                f"Logging to the W&B project {project!r} needs wandb, which is not installed: "
                "pip install 'ragaf-jax[wandb]', or leave the project empty."
            ) from None
        id_file = workdir / "logs" / "wandb_id"
        self._run = self._wandb.init(
            project=project,
            name=workdir.name,
            id=id_file.read_text() if id_file.exists() else None,
            resume="allow",
            dir=str(workdir),
            config=dict(config),
        )
        id_file.parent.mkdir(parents=True, exist_ok=True)
        id_file.write_text(self._run.id)

    def scalars(self, step: int, values: Scalars) -> None:
        """W&B drops the steps that a resumed run repeats."""
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def images(self, step: int, values: Images) -> None:
        """Images beside the curves of the same step."""
        images = {name: self._wandb.Image(image) for name, image in values.items()}
        self._run.log(images, step=step)

    def text(self, step: int, name: str, sentence: str) -> None:
        """An alert, which W&B can also mail."""
        self._run.alert(title=name, text=f"Step {step}: {sentence}")

    def close(self) -> None:
        """Uploads the remaining records."""
        self._run.finish()


class MultiWriter(Writer):
    """Forwards every call to each of its writers."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = tuple(writers)

    def scalars(self, step: int, values: Scalars) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.scalars(step, values)

    def images(self, step: int, values: Images) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.images(step, values)

    def text(self, step: int, name: str, sentence: str) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.text(step, name, sentence)

    def close(self) -> None:
        """Closes all of them."""
        for writer in self._writers:
            writer.close()


def workdir_writer(config: ConfigDict, workdir: Path, first_step: int = 0) -> Writer:
    """The writers of a training run: terminal, logs/, samples/ and, with a project, W&B.

    Args:
      config: of the run.
      workdir: the run's folder.
      first_step: the step resumed from, or 0.

    Returns:
      A writer that writes in the first process only.

    Raises:
      UserError: `config.wandb_project` is given and wandb is not installed.
    """
    if jax.process_index() != 0:
        return Writer()
    logs, project = workdir / "logs", config.wandb_project
    return MultiWriter(
        [
            # First, because it can fail.
            *([WandB(project, workdir, config.to_dict())] if project else []),
            JsonLines(logs / "metrics.jsonl", first_step),
            TensorBoard(logs, first_step),
            PngFiles(workdir / "samples"),
            Terminal(config.train.steps, config.train.batch_size, first_step),
        ]
    )


def _summary_writer() -> type:
    """tensorboardX's writer, imported without PyTorch."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def _step(line: str) -> float:
    """The step of a line; infinity for a truncated line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
