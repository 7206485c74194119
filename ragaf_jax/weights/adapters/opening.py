"""Opens the file of an adapter, or a folder that diffusers or PEFT wrote, with PEFT's settings."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.weights.adapters.tensor_names import Module
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.stores import PICKLES, Safetensors, open_weights, pickle_refusal

# Files of a folder: the tensors in one of the first, and PEFT's settings.
TENSOR_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
SETTINGS_FILE = "adapter_config.json"
# The settings in a file's header, each field after its network's name.
_HEADER = "lora_adapter_metadata"


class AdapterFile(NamedTuple):
    """An opened adapter.

    Attributes:
      store: its tensors.
      settings: PEFT's, by network; "" if there is only one.
      files: the files that were read.
    """

    store: Safetensors
    settings: Mapping[str, Mapping[str, Any]]
    files: tuple[Path, ...]


def adapter_files(path: Path) -> tuple[Path, ...]:
    """The file of the tensors, and PEFT's settings where they belong to it.

    Raises:
      UserError: a folder without an adapter.
    """
    if path.is_dir():
        files = [path / name for name in TENSOR_FILES if (path / name).exists()]
        if not files:
            pickles = sorted(file for file in path.iterdir() if file.suffix in PICKLES)
            if pickles:
                raise UserError(pickle_refusal(pickles[0]))
            raise UserError(
                f"{path} holds no {' and no '.join(TENSOR_FILES)}; give the folder or the file of "
                "a LoRA."
            )
        path = files[0]
    # PEFT saves alpha in this file.
    beside = path.with_name(SETTINGS_FILE)
    return (path, beside) if path.name == TENSOR_FILES[1] and beside.exists() else (path,)


def open_adapter(path: Path) -> AdapterFile:
    """The tensors and settings of a file or folder.

    Raises:
      UserError: a damaged file or one of another format.
    """
    files = adapter_files(path)
    settings = {"": read_json(files[1])} if files[1:] else {}
    store = open_weights(files[0])
    if not isinstance(store, Safetensors):
        raise UserError(f"{files[0]} is no safetensors file; expected a LoRA in one.")
    return AdapterFile(store, _header(store) or settings, files)


def _header(store: Safetensors) -> Mapping[str, Mapping[str, Any]]:
    settings: dict[str, dict[str, Any]] = {}
    try:
        for key, value in json.loads(store.metadata.get(_HEADER, "{}")).items():
            network, _, field = key.partition(".")
            settings.setdefault(network, {})[field] = value
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{_HEADER} in the header of {store.source} is no JSON object ({error}); download the "
            "file again."
        ) from None
    return settings


def settings_alpha(opened: AdapterFile, module: Module, rank: int | None) -> float:
    """Alpha from PEFT's settings, `lora_alpha` or LyCORIS's `alpha`; the rank without settings.

    Args:
      opened: the file.
      module: the adapted module.
      rank: None where no tensor shows it: alpha is then divided by the rank of the settings.

    Raises:
      UserError: settings without a valid number.
    """
    settings = opened.settings
    fields = settings.get(module.diffusers_network, settings.get("", {}))
    name = module.torch_path

    def field(*names: str, pattern: str) -> Any:
        for expression, value in (fields.get(pattern) or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{expression})", name):  # as PEFT's get_pattern_key
                return value
        return next((fields[name] for name in names if fields.get(name) is not None), None)

    try:
        alpha = field("lora_alpha", "alpha", pattern="alpha_pattern")
        if alpha is None:
            return float(rank or 1)
        if rank is None:
            return float(alpha) / float(field("r", pattern="rank_pattern") or alpha)
        # Kalajdzievski 2023 divides by √rank, LoRA by the rank.
        factor = rank**0.5 if fields.get("use_rslora") else 1.0
        return factor * float(alpha)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError, re.error) as error:
        raise UserError(
            f"The settings of the LoRA {opened.store.source} have no valid alpha for {name} "
            f"({error}), expected numbers as lora_alpha and in alpha_pattern; download it again."
        ) from None
