"""Settings of LoRAs: files and strengths, from flags, arguments, tables and metadata.json."""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragaf_jax.errors import UserError
from ragaf_jax.paths import PATH

LARGEST_STRENGTH = 100  # far above useful strengths, far below those that give NaN


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA file with its strengths; 0 is without it, 1 as trained.

    Attributes:
      path: of the file, or of a folder that diffusers or PEFT wrote.
      unet: strength in the UNet, and in the sketch branch where the file has tensors for it.
      text: strength in the text encoder.
      sha256: of the file's content; empty before it is loaded.
    """

    path: str
    unet: float = 1.0
    text: float = 1.0
    sha256: str = ""

    @property
    def flag(self) -> str:
        """The value of --lora."""
        return f"{self.path}={self.unet!r},{self.text!r}"


# Strengths by path, one for both or (UNet, text encoder); or a sequence of paths or `Lora`s.
Loras = Mapping[str | Path, float | tuple[float, float]] | Sequence[str | Path | Lora]


def parse_loras(entries: Iterable[str], folder: Path | None = None) -> tuple[Lora, ...]:
    """LoRAs from entries "<path>", "<path>=<strength>" or "<path>=<UNet>,<text encoder>".

    The last = separates the strengths, so that paths may hold any character. An entry that is
    itself an existing path has none.

    Args:
      entries: as above.
      folder: of relative paths; None: the current folder.

    Raises:
      UserError: a strength that is not a number or out of range, a path to an object store, or a
        path given twice.
    """
    found = []
    for entry in entries:
        path, equals, strengths = entry.rpartition("=")
        if not equals or (folder or Path()).joinpath(Path(entry).expanduser()).exists():
            path, strengths = entry, "1"
        try:
            values = [float(text) for text in strengths.split(",")]
        except ValueError:
            values = []
        if not path or len(values) not in (1, 2):
            raise UserError(
                f"The LoRA {entry!r} is not <path>, <path>=<strength> or <path>=<strength of the "
                "UNet>,<of the text encoder>; write it like --lora style.safetensors=0.8,0.5."
            )
        lora = _lora(path, values[0], values[-1])
        if folder is not None:
            lora = dataclasses.replace(lora, path=str(folder / lora.path))
        found.append(lora)
    return _distinct(found)


def as_loras(given: Any) -> tuple[Lora, ...]:
    """The LoRAs of an argument of `Pipeline`, which is expected to be `Loras` or None.

    Raises:
      UserError: a value of another form, or as `parse_loras`.
    """
    if given is None:
        return ()
    if isinstance(given, str | Path) or not isinstance(given, Mapping | Sequence):
        raise UserError(
            f"loras is {given!r}; give a list of paths, or strengths by path such as "
            "{'style.safetensors': (0.8, 0.5)}."
        )
    if not isinstance(given, Mapping):
        return _distinct(
            [_lora(x.path, x.unet, x.text) if isinstance(x, Lora) else _lora(x) for x in given]
        )
    found = []
    for path, strength in given.items():
        pair = strength if isinstance(strength, tuple | list) else (strength, strength)
        if len(pair) != 2:
            raise UserError(
                f"The strengths of the LoRA {path} are {strength!r}; give one number, or one for "
                "the UNet and one for the text encoder."
            )
        found.append(_lora(path, *pair))
    return _distinct(found)


def recorded(loras: Iterable[Mapping[str, Any]]) -> list[Lora]:
    """The LoRAs of a metadata.json.

    Raises:
      KeyError, TypeError: entries of another form.
      UserError: a strength that is not a number or out of range.
    """
    return [
        dataclasses.replace(_lora(x["path"], x["unet"], x["text"]), sha256=str(x["sha256"]))
        for x in loras
    ]


def _lora(path: Any, unet: Any = 1.0, text: Any = 1.0) -> Lora:
    """Raises UserError for a path that is none or remote, or a strength that is out of range."""
    if not isinstance(path, str | Path):
        raise UserError(f"The LoRA is {path!r}; give the path of a file or folder.")
    for name, value in (("UNet", unet), ("text encoder", text)):
        number = isinstance(value, numbers.Real) and math.isfinite(value)
        if not (number and abs(value) <= LARGEST_STRENGTH):
            raise UserError(
                f"The strength of the LoRA {path} in the {name} is {value}; choose "
                f"-{LARGEST_STRENGTH} to {LARGEST_STRENGTH}, usually 0 to 1."
            )
    try:
        return Lora(PATH.parse(str(path)), float(unet), float(text))
    except ValueError as error:
        raise UserError(f"The LoRA is {path}: {error}") from None


def _distinct(loras: Sequence[Lora]) -> tuple[Lora, ...]:
    seen = set()
    for lora in loras:
        place = Path(lora.path).absolute()
        if place in seen:
            raise UserError(f"The LoRA {lora.path} is given twice; give it once.")
        seen.add(place)
    return tuple(loras)
