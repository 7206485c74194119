"""Reads inputs recorded in metadata.json, and sets the flags that repeat an output."""

import dataclasses
import errno
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from ragaf_jax.errors import UserError
from ragaf_jax.paths import sha256_of

METADATA = "metadata.json"
# Flags of `ragaf_jax.sample` that are fields of `Options`.
OPTION_FLAGS = (
    *("steps", "guidance", "sketch_guidance", "sketch_strength", "guidance_until", "strength"),
    *("sampler", "sigmas", "stages", "clip_skip", "sketch_start", "sketch_end", "sketch_levels"),
    *("region_method", "region_base_ratio", "region_end"),
    *("original_size", "crop_top_left", "target_size"),
)
# Flags of `ragaf_jax.sample` that metadata.json records by the same names.
RECORDED_FLAGS = (
    *("prompt", "negative_prompt", "seed", "count", "neck_splits", "upscale", "dtype"),
    *OPTION_FLAGS,
)
INPUT_FILES = ("sketch", "labels", "image")
# Entries that are not recorded where they are empty.
_EMPTY: dict[str, Any] = {
    "negative_prompt": "",
    "region_prompts": {},
    "region_negative_prompts": {},
    "embeddings": [],
    "control_networks": [],
    "vae_sha256": None,
    "dtype": None,
}
_DIGEST = "{}_sha256"


class Recorded(NamedTuple):
    """The inputs of an output.

    Attributes:
      flags: values by flag name, as texts; lists for flags that may be repeated.
      steps: step of the checkpoint of each stage.
    """

    flags: dict[str, str | list[str]]
    steps: dict[int, int]


def file_facts(files: Mapping[str, str | Path | None]) -> dict[str, str]:
    """Entries of metadata.json for input files: absolute path and SHA-256 of each given file.

    Raises:
      UserError: a file cannot be read.
    """
    facts: dict[str, str] = {}
    for name, file in files.items():
        if file is not None:
            try:
                digest = sha256_of(Path(file))
            except OSError as error:
                raise UserError(
                    f"The {name} {file} cannot be read ({error.strerror}); give an image file."
                ) from None
            facts |= {name: str(Path(file).absolute()), _DIGEST.format(name): digest}
    return facts


def comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of metadata.json that are equal for outputs of the same inputs.

    Input files are compared by SHA-256 alone. Relative workdirs are resolved in the current folder.
    Entries that are not recorded have their defaults, which older versions used as well.
    """
    from ragaf_jax.checkpoints.meta import with_later_fields  # not for --help: it takes 0.6 s
    from ragaf_jax.graph.regions import NECK_SPLITS
    from ragaf_jax.sampling.options import Options

    usual = {
        x.name: x.default
        for x in dataclasses.fields(Options)
        if x.default is not dataclasses.MISSING
    }
    found = {**_EMPTY, "neck_splits": NECK_SPLITS, **usual, **facts}
    found = {name: value for name, value in found.items() if name not in (*INPUT_FILES, "vae")}
    if "image_size" in found:
        found["image_size"] = _sides(found["image_size"])
    if isinstance(loras := found.get("loras"), list) and all(isinstance(x, dict) for x in loras):
        found["loras"] = [{k: v for k, v in lora.items() if k != "path"} for lora in loras]
    if isinstance(embeddings := found.get("embeddings"), list):
        found["embeddings"] = [x.get("sha256") for x in embeddings if isinstance(x, Mapping)]
    if isinstance(networks := found.get("control_networks"), list):
        found["control_networks"] = [
            {name: value for name, value in network.items() if name not in ("where", "image")}
            for network in networks
            if isinstance(network, Mapping)
        ]
    for name in ("stage1", "stage2"):
        stage = found.get(name)
        if isinstance(stage, Mapping) and isinstance(stage.get("workdir"), str):
            found[name] = {**stage, "workdir": str(Path(stage["workdir"]).absolute())}
            if isinstance(stage.get("config"), Mapping):
                found[name] = with_later_fields(found[name])
    return json.loads(json.dumps(found))  # tuples of defaults are lists in metadata.json


def _sides(size: Any) -> dict[str, Any]:
    """Width and height of a recorded size, which older versions recorded as one number."""
    if isinstance(size, Mapping):
        return {name: size[name] for name in ("width", "height") if name in size}
    return {} if size is None else {"width": size, "height": size}


def set_recorded_flags(values: flags.FlagValues, path: Path) -> dict[int, int]:
    """Sets flags of `ragaf_jax.sample` that are not given to the values in a metadata.json.

    Returns:
      `Recorded.steps`.

    Raises:
      UserError: a recorded value that its flag does not accept, or as `read_recorded`.
    """
    recorded = read_recorded(path, {name for name in values if values[name].present})
    for name, value in recorded.flags.items():
        try:
            values[name].parse(value)
        except flags.Error as error:
            raise UserError(
                f"{path} records a value that --{name} does not accept ({error}); give --{name}."
            ) from None
    return recorded.steps


def read_recorded(path: Path, given: Collection[str]) -> Recorded:
    """Reads the inputs of a metadata.json.

    Args:
      path: the file, or the output folder that contains it.
      given: names of flags that override recorded values; their files are not compared.

    Raises:
      UserError: the file cannot be read or is no metadata.json, or an input file is missing or has
        changed.
    """
    path = path / METADATA if path.is_dir() else path
    found = _read(path)
    texts: dict[str, str | list[str]] = {}
    for name in RECORDED_FLAGS:
        value = found.get(name)
        if value is None or name in given:
            continue
        if not isinstance(value, str | int | float):
            raise UserError(f"{path} has {name} = {value!r}; give --{name}, which overrides it.")
        texts[name] = str(value)
    # Another sketch has its own proportions.
    if not {"sketch", "letterbox"} & {*given}:
        texts |= {name: str(side) for name, side in _sides(found.get("image_size")).items()}
    # Outputs without this entry show whole pages.
    texts["crop"] = str(bool(found.get("crop", False)))
    for name in INPUT_FILES:
        if found.get(name) is not None and name not in given:
            texts[name] = str(found[name])
            _check_unchanged(path, name, Path(texts[name]), found.get(_DIGEST.format(name)))
    if "embedding" not in given and "embeddings" in found:
        texts["embedding"] = _embeddings(path, found["embeddings"])
    kinds = {"region_prompts": dict, "region_negative_prompts": dict, "merge": list}
    prompts, negatives, merges = (found.get(name, kind()) for name, kind in kinds.items())
    for name, kind in kinds.items():
        value = found.get(name, kind())
        texts_alone = kind is list or (
            isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        )
        if not (isinstance(value, kind) and texts_alone):
            what = "an object of texts" if kind is dict else "a list"
            raise UserError(
                f"In {path}, {name} is not {what}; give the unchanged {METADATA} of an output."
            )
    texts |= _controls(path, found, given)
    texts["region"] = [f"{number}={text}" for number, text in prompts.items()]
    texts["negative_region"] = [f"{number}={text}" for number, text in negatives.items()]
    texts["merge"] = [str(group) for group in merges]
    if found.get("loras") and "lora" not in given:
        texts["lora"] = _lora_flags(path, found["loras"])
    steps = {}
    for number in (1, 2):
        stage = found.get(f"stage{number}")
        if isinstance(stage, dict) and isinstance(stage.get("workdir"), str):
            texts[f"stage{number}"] = stage["workdir"]
            if f"stage{number}" not in given and "checkpoint_step" in stage:
                steps[number] = stage["checkpoint_step"]
    return Recorded({name: value for name, value in texts.items() if name not in given}, steps)


def _embeddings(path: Path, recorded: Any) -> list[str]:
    """The recorded files of textual inversions, each once."""
    try:
        files = {str(one["path"]): one["sha256"] for one in recorded}
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"In {path}, embeddings is {recorded!r}; give --embedding, which overrides it."
        ) from None
    for file, digest in files.items():
        _check_unchanged(path, "embedding", Path(file), digest)
    return list(files)


def _controls(
    path: Path, found: Mapping[str, Any], given: Collection[str]
) -> dict[str, str | list[str]]:
    """The flags of a recorded VAE and of recorded ControlNets, whose images are unchanged."""
    from ragaf_jax.sampling.controls.settings import checked_controls, control_flag  # imports JAX

    texts: dict[str, str | list[str]] = {}
    if found.get("vae") is not None and "vae" not in given:
        texts["vae"] = str(found["vae"])
    networks, settings = found.get("control_networks"), found.get("controls")
    if not networks or "control" in given:
        return texts
    try:
        texts["control"] = [
            control_flag(str(network["where"]), one)
            for network, one in zip(networks, checked_controls(settings), strict=True)
        ]
        images = [(one.get("image"), one.get("image_sha256")) for one in networks]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"In {path}, controls or control_networks has another form; give the unchanged "
            f"{METADATA} of an output."
        ) from None
    if "control_image" not in given:
        texts["control_image"] = ["" if image is None else str(image) for image, _ in images]
        for image, digest in images:
            if image is not None:
                _check_unchanged(path, "control_image", Path(image), digest)
    return texts


def check_weights(path: Path, facts: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuses a VAE or ControlNets whose files have changed since a metadata.json was written.

    Args:
      path, given: as in `read_recorded`.
      facts: of today's files, as they will be recorded.

    Raises:
      UserError: the first such file.
    """
    found = _read(path / METADATA if path.is_dir() else path)
    pairs = []
    if "vae" not in given and isinstance(found.get("vae"), str):
        pairs.append(("vae", found, facts, "vae"))
    if "control" not in given:
        both = zip(*(x.get("control_networks") or [] for x in (found, facts)), strict=True)
        pairs += [("control", before, now, "where") for before, now in both]
    for flag, before, now, where in pairs:
        name = "vae_sha256" if flag == "vae" else "sha256"
        _check_digest(path, flag, now[where], now[name], before.get(name))


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
            f"{path} records no prompt; give --from=<the {METADATA} of an output with an image>."
        )
    return found


def _regular(file: Path) -> Path:
    """The file; raises `OSError` for devices such as /dev/zero, which never end."""
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def _lora_flags(path: Path, entries: Any) -> list[str]:
    """The values of --lora for the entries of a metadata.json, whose files must be unchanged."""
    from ragaf_jax.sampling.lora.loaded import lora_digest
    from ragaf_jax.sampling.lora.settings import recorded  # they import JAX

    try:
        loras = recorded(entries)
    except (KeyError, TypeError):
        raise UserError(
            f"{path} has loras = {entries!r}; give --lora, which overrides them."
        ) from None
    for lora in loras:
        _check_unchanged(path, "lora", Path(lora.path), lora.sha256, lora_digest)
    return [lora.flag for lora in loras]


def _check_unchanged(
    path: Path,
    name: str,
    file: Path,
    digest: Any,
    digest_of: Callable[[Path], str] = lambda file: sha256_of(_regular(file)),
) -> None:
    try:
        now = digest_of(file)
    except (OSError, ValueError, UserError) as error:
        raise UserError(
            f"The {name} {str(file)!a} that {path} records cannot be read "
            f"({getattr(error, 'strerror', None) or error}); give --{name}=<its new path>."
        ) from None
    _check_digest(path, name, file, now, digest)


def _check_digest(path: Path, name: str, file: str | Path, now: str, digest: Any) -> None:
    """Refuses a file whose SHA-256 is not the recorded one, where that is recorded."""
    if digest is not None and now != digest:
        raise UserError(
            f"The {name} {file} has changed since {path} was written (its SHA-256 begins with "
            f"{now[:8]}, not {str(digest)[:8]}); give the original by --{name}=<file>, or this "
            "file to sample it with the same settings."
        )


def checkpoint_notices(recorded: Mapping[int, int], steps: Mapping[int, int]) -> list[str]:
    """Notices about stages whose checkpoints differ in their steps from the recorded ones."""
    return [
        f"The checkpoint of Stage {number} has step {steps[number]}, but the recorded output used "
        f"step {step}: the image will differ."
        for number, step in recorded.items()
        if number in steps and steps[number] != step
    ]
