"""Inputs recorded in metadata.json, and the flags that repeat an output."""

import errno
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from ragaf_jax.errors import UserError

METADATA = "metadata.json"
# Flags of `ragaf_jax.sample` that metadata.json has under their own names.
VALUES = (
    *("prompt", "negative_prompt", "seed", "count", "neck_splits", "upscale", "dtype"),
    *("steps", "guidance", "sketch_guidance", "sketch_strength", "guidance_until", "strength"),
    *("sampler", "stages"),
)
INPUT_FILES = ("sketch", "labels", "image")
_DIGEST = "{}_sha256"


class Recorded(NamedTuple):
    """The inputs of an output.

    Attributes:
      flags: values of flags by their names, as texts; of flags that may be repeated a list.
      steps: the updates that made the checkpoint of each stage.
    """

    flags: dict[str, str | list[str]]
    steps: dict[int, int]


def file_facts(files: Mapping[str, str | Path | None]) -> dict[str, str]:
    """Entries of metadata.json for input files: path and SHA-256 of each that is given.

    Paths are absolute, so that --from finds the files from any folder.

    Raises:
      UserError: one cannot be read.
    """
    facts: dict[str, str] = {}
    for name, file in files.items():
        if file is not None:
            try:
                digest = _digest(Path(file))
            except OSError as error:
                raise UserError(
                    f"The {name} {file} cannot be read ({error.strerror}); name an image file."
                ) from None
            facts |= {name: str(Path(file).absolute()), _DIGEST.format(name): digest}
    return facts


def comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of metadata.json by which two outputs are of the same inputs.

    Input files are compared by their SHA-256 alone. Workdirs that were recorded as relative are
    taken as relative to the current folder.
    """
    found = {name: value for name, value in facts.items() if name not in INPUT_FILES}
    for name in ("stage1", "stage2"):
        stage = found.get(name)
        if isinstance(stage, Mapping) and isinstance(stage.get("workdir"), str):
            found[name] = {**stage, "workdir": str(Path(stage["workdir"]).absolute())}
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def set_recorded_flags(values: flags.FlagValues, path: Path) -> dict[int, int]:
    """Sets the flags of `ragaf_jax.sample` that are not given to what a metadata.json records.

    Args:
      values: the flags; those that are given stay as they are.
      path: as in `read_recorded`.

    Returns:
      The updates that made the checkpoint of each stage, as `Recorded` has them.

    Raises:
      UserError: a recorded value that its flag cannot have, or as `read_recorded`.
    """
    recorded = read_recorded(path, {name for name in values if values[name].present})
    for name, value in recorded.flags.items():
        try:
            values[name].parse(value)
        except flags.Error as error:
            raise UserError(
                f"{path} records a value that --{name} cannot have ({error}); give --{name}."
            ) from None
    return recorded.steps


def read_recorded(path: Path, given: Collection[str]) -> Recorded:
    """The inputs that a metadata.json records.

    Args:
      path: the file, or the output folder that holds it.
      given: names of flags that override what is recorded; their files are not compared.

    Raises:
      UserError: the file cannot be read or is no metadata.json, or an input file is missing or has
        changed since.
    """
    path = path / METADATA if path.is_dir() else path
    found = _read(path)
    texts: dict[str, str | list[str]] = {}
    for name in VALUES:
        value = found.get(name)
        if value is None or name in given:
            continue
        if not isinstance(value, str | int | float):
            raise UserError(f"{path} has {name} = {value!r}; give --{name}, which overrides it.")
        texts[name] = str(value)
    # Outputs that do not record it show whole pages.
    texts["crop"] = str(bool(found.get("crop", False)))
    for name in INPUT_FILES:
        if found.get(name) is not None and name not in given:
            texts[name] = str(found[name])
            _check_unchanged(path, name, Path(texts[name]), found.get(_DIGEST.format(name)))
    words, merges = found.get("region_prompts", {}), found.get("merge", [])
    if not isinstance(words, dict) or not isinstance(merges, list):
        raise UserError(
            f"{path} has no object as region_prompts or no list as merge; name a metadata.json "
            "that an output has."
        )
    texts["region"] = [f"{number}={text}" for number, text in words.items()]
    texts["merge"] = [str(group) for group in merges]
    steps = {}
    for number in (1, 2):
        stage = found.get(f"stage{number}")
        if isinstance(stage, dict) and isinstance(stage.get("workdir"), str):
            texts[f"stage{number}"] = stage["workdir"]
            if f"stage{number}" not in given and "checkpoint_step" in stage:
                steps[number] = stage["checkpoint_step"]
    return Recorded({name: value for name, value in texts.items() if name not in given}, steps)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read ({reason}); give --from=<the {METADATA} of an output>."
        ) from None
    if not isinstance(found, dict) or "prompt" not in found:
        raise UserError(
            f"{path} records no prompt; give --from=<the {METADATA} of an output that was sampled>."
        )
    return found


def _regular(file: Path) -> Path:
    """The file, which is none of those, such as /dev/zero, that never end.

    Raises:
      OSError: there is no such file, or it is another thing.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    return file


def _check_unchanged(path: Path, name: str, file: Path, digest: str | None) -> None:
    try:
        now = _digest(_regular(file))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The {name} {str(file)!a} that {path} records cannot be read "
            f"({getattr(error, 'strerror', None) or error}); give --{name}=<where it is now>."
        ) from None
    if digest is not None and now != digest:
        raise UserError(
            f"The {name} {file} is not the one that {path} records (its SHA-256 begins with "
            f"{now[:8]}, not {str(digest)[:8]}); give that one by --{name}=<file>, or this one to "
            "sample it with the same settings."
        )


def checkpoint_notices(recorded: Mapping[int, int], steps: Mapping[int, int]) -> list[str]:
    """That a stage was trained further since, so that its images are others.

    Args:
      recorded: updates of the checkpoint of each stage, as `Recorded` has them.
      steps: those of the stages that are restored.
    """
    return [
        f"The checkpoint of Stage {number} is of step {steps[number]}, and that of the recorded "
        f"output of step {step}: the image will differ."
        for number, step in recorded.items()
        if number in steps and steps[number] != step
    ]
