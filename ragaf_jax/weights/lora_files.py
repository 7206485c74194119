"""Reads and writes LoRA files of other programs: diffusers (PEFT's names) and kohya.

A file holds two matrices per module. Every dense layer and convolution of the networks is listed
under its names in each format, and a file's tensors are looked up there.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ragaf_jax.errors import UserError
from ragaf_jax.nets.lora import adapters_by_path
from ragaf_jax.weights import stores
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.configs.kinds import LORA, file_kind
from ragaf_jax.weights.load import check_finite
from ragaf_jax.weights.names import from_torch, to_torch, torch_name, torch_shape
from ragaf_jax.weights.stores import Safetensors

logger = logging.getLogger(__name__)

Tree = dict[str, Any]

FORMATS = ("diffusers", "kohya")

# Files of a folder: the tensors in one of the first, and PEFT's settings.
TENSOR_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
SETTINGS_FILE = "adapter_config.json"
# The settings in a file's header, each field after its network's name.
_HEADER = "lora_adapter_metadata"
# By network; "" if there is only one.
Settings = Mapping[str, Mapping[str, Any]]

_DOWN = (
    r"lora_A(?:\.\w+)?\.weight|lora_down\.weight|lora\.down\.weight|lora_linear_layer\.down\.weight"
)
_UP = r"lora_B(?:\.\w+)?\.weight|lora_up\.weight|lora\.up\.weight|lora_linear_layer\.up\.weight"
_TENSOR = re.compile(rf"(?P<module>.+)\.(?:(?P<down>{_DOWN})|(?P<up>{_UP})|(?P<alpha>alpha))")
# diffusers' names before 2023-12: attn1.processor.to_q_lora.down.weight
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_\w+?)_lora\.(down|up)\.weight")
# … and of the text encoder: text_encoder.….self_attn.to_out_lora.down.weight
_TEXT_PROCESSOR = re.compile(r"(.+\.self_attn)\.to_(q|k|v|out)_lora\.(down|up)\.weight")
# Tensors of LyCORIS' and other adapters that are not two matrices.
_OTHER_KINDS = re.compile(
    r"\.(lora_mid|dora_scale|lora_magnitude_vector|hada_w\w+|lokr_w\w+|diff_b|diff|oft_\w+"
    r"|w_norm|b_norm)\b"
)
# Whole tensors that PEFT and diffusers can save beside the matrices.
_WHOLE = re.compile(r"(\.|_)(bias|norm\w*\.weight|modules_to_save\..*)$")
# A textual inversion in the file of a LoRA.
_BUNDLED = "bundle_emb."
_KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "control": "lora_controlnet_"}
_DIFFUSERS = {"unet": "unet.", "text_encoder": "text_encoder.", "control": "controlnet."}


class _Module(NamedTuple):
    """A dense layer or convolution of a network."""

    network: str
    path: str
    shape: tuple[int, ...]


def load_lora(path: Path, params: Mapping[str, Any]) -> Tree:
    """Adapters from a file, or from a folder that diffusers or PEFT wrote.

    Args:
      path: a `.safetensors` file or a folder with one.
      params: {"unet": …, "text_encoder": …}, the networks' parameters or their shapes.

    Returns:
      As `nets.lora.init_lora`, in float32. Without an alpha in the file, alpha is the rank.

    Raises:
      UserError: a tensor that fits no module, half of a pair, or a damaged file.
    """
    store, settings = _open(path)
    known = _known(params)
    found: dict[_Module, dict[str, str]] = {}
    if bundled := [name for name in store.shapes if name.startswith(_BUNDLED)]:
        logger.warning("%s holds the embedding %s, which is ignored", store.source, bundled[0])
    for name in store.shapes:
        if name in bundled:
            continue
        named, part = _parse(name)
        if other := _OTHER_KINDS.search(name):
            raise UserError(
                f"The tensor {name} in {store.source} belongs to an adapter with {other[1]}, "
                "expected LoRA's two matrices per module: LoHa, LoKr, DoRA, Tucker cores, biases "
                "and norms are not supported."
            )
        if not part or named not in known:
            raise _unread(name, store)
        names = found.setdefault(known[named], {})
        if part in names:
            raise UserError(
                f"{store.source} holds both {names[part]} and {name}, expected one of them; save "
                "each LoRA in a separate file."
            )
        names[part] = name
    if not found:
        raise UserError(f"{store.source} holds no tensors, expected a LoRA; download it again.")
    tree: Tree = {}
    for module, names in found.items():
        if missing := {"down", "up"} - set(names):
            raise UserError(
                f"{store.source} holds {', '.join(names.values())} without its other half "
                f"({', '.join(sorted(missing))}); the file is incomplete."
            )
        tree |= _adapter(store, module, names, settings)
    return unflatten_dict(tree, sep="/")


def _unread(name: str, store: Safetensors) -> UserError:
    """The error for a tensor that is no matrix of a known module."""
    kind, shown = file_kind(store.shapes) or (LORA, name)
    if kind != LORA:
        return UserError(
            f"{store.source} is {kind}, as its tensor {shown} shows, expected a LoRA of Stable "
            "Diffusion 1 or 2; give one of those."
        )
    if _WHOLE.search(name):
        return UserError(
            f"The tensor {name} in {store.source} is a bias, a norm or a whole module, expected "
            "LoRA's two matrices per module; train or save the LoRA without biases, norms and "
            "modules_to_save."
        )
    return UserError(
        f"The tensor {name} in {store.source} belongs to no module of this model, expected a LoRA "
        "of Stable Diffusion's UNet or text encoder, of the same generation."
    )


def lora_tensors(lora: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
    """The tensors of the adapters in the format `kind`, one of `FORMATS`, in float32.

    diffusers reads no alpha from the tensors, so its second matrix includes the factor.
    """
    tensors: dict[str, np.ndarray] = {}
    for network, tree in lora.items():
        for path, adapter in adapters_by_path(tree).items():
            pair = (np.asarray(adapter[name], np.float32) for name in ("down", "up"))
            down, up = (to_torch(f"{path}/kernel", matrix) for matrix in pair)
            alpha = np.asarray(adapter["alpha"], np.float32)
            if kind == "kohya":
                name = _KOHYA[network] + path.replace("/", "_")
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
                tensors[f"{name}.alpha"] = alpha
            else:
                name = _DIFFUSERS[network] + _torch_module(path)
                tensors[f"{name}.lora_A.weight"] = down
                tensors[f"{name}.lora_B.weight"] = up * (alpha / down.shape[0])
    return {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}


def save_lora(path: Path, lora: Mapping[str, Any], kind: str) -> None:
    """Writes the adapters to the file `path`."""
    metadata = {"format": "pt"}
    if kind == "kohya":
        adapters = (x for tree in lora.values() for x in adapters_by_path(tree).values())
        rank = max(adapter["down"].shape[-1] for adapter in adapters)
        metadata |= {"ss_network_module": "networks.lora", "ss_network_dim": str(rank)}
    stores.save_tensors(path, lora_tensors(lora, kind), metadata)


def _open(path: Path) -> tuple[Safetensors, Settings]:
    """The tensors, and PEFT's settings of the file or folder."""
    if path.is_dir():
        files = [path / name for name in TENSOR_FILES if (path / name).exists()]
        if not files:
            pickles = sorted(file for file in path.iterdir() if file.suffix in stores.PICKLES)
            if pickles:
                raise UserError(stores.pickle_refusal(pickles[0]))
            raise UserError(
                f"{path} holds no {' and no '.join(TENSOR_FILES)}; give the folder or the file of "
                "a LoRA."
            )
        path = files[0]
    # PEFT saves alpha in this file.
    beside = path.with_name(SETTINGS_FILE)
    has_settings = path.name == TENSOR_FILES[1] and beside.exists()
    settings = {"": read_json(beside)} if has_settings else {}
    store = stores.open_weights(path)
    if not isinstance(store, Safetensors):
        raise UserError(f"{path} is no safetensors file; expected a LoRA in one.")
    return store, _header(store) or settings


def _header(store: Safetensors) -> Settings:
    settings: dict[str, Tree] = {}
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


def _settings_alpha(settings: Settings, module: _Module, rank: int, source: str) -> float:
    """Alpha from PEFT's settings; the rank without settings."""
    fields = settings.get(_DIFFUSERS[module.network].rstrip("."), settings.get("", {}))
    name = _torch_module(module.path)
    alpha = fields.get("lora_alpha")
    try:
        for pattern, value in (fields.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name):  # as PEFT's get_pattern_key
                alpha = value
                break
        # Kalajdzievski 2023 divides by √rank, LoRA by the rank.
        factor = rank**0.5 if fields.get("use_rslora") else 1.0
        return float(rank) if alpha is None else factor * float(alpha)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise UserError(
            f"The settings of the LoRA {source} have no valid alpha for {name} ({error}), expected "
            "numbers as lora_alpha and in alpha_pattern; download it again."
        ) from None


def _known(params: Mapping[str, Any]) -> dict[str, _Module]:
    """Every module by each of its names."""
    known = {}
    for network in [name for name in params if name in _KOHYA]:
        for full, leaf in flatten_dict(params[network], sep="/").items():
            path = full.removesuffix("/kernel")
            if path == full:
                continue
            module = _Module(network, path, tuple(leaf.shape))
            torch = _torch_module(path)
            kohya = path.replace("/", "_")
            known[_KOHYA[network] + kohya] = module
            if network == "text_encoder":  # trainers that support SDXL number its text encoders
                known[f"lora_te1_{kohya}"] = module
            # PEFT's files have one network and no prefix.
            for prefix in (_DIFFUSERS[network], "base_model.model.", ""):
                known.setdefault(prefix + torch, module)
                known.setdefault(prefix + torch.removeprefix("text_model."), module)
    return known


def _torch_module(path: str) -> str:
    return torch_name(f"{path}/kernel").removesuffix(".weight")


def _parse(name: str) -> tuple[str, str]:
    """(module, "down" | "up" | "alpha") of a tensor's name."""
    if old := _PROCESSOR.fullmatch(name):
        return f"{old[1]}.{'to_out.0' if old[2] == 'to_out' else old[2]}", old[3]
    if old := _TEXT_PROCESSOR.fullmatch(name):
        return f"{old[1]}.{old[2]}_proj", old[3]
    if (match := _TENSOR.fullmatch(name)) is None:
        return name, ""
    return match["module"], next(part for part in ("down", "up", "alpha") if match[part])


def _adapter(
    store: Safetensors, module: _Module, names: Mapping[str, str], settings: Settings
) -> Tree:
    path = f"{module.path}/kernel"
    *window, fan_in, features = module.shape
    rank = max((1, *store.shapes[names["down"]][:1]))
    shapes = {
        "down": (*window, fan_in, rank),
        "up": (*(1 for _ in window), rank, features),
        "alpha": (),
    }
    adapter: Tree = {"alpha": np.float32(_settings_alpha(settings, module, rank, store.source))}
    for part, name in names.items():
        array, shape = store.read(name), shapes[part]
        # Alpha may have the shape [1].
        array = array.squeeze() if part == "alpha" else from_torch(path, array, len(shape))
        if array.shape != shape:
            expected = torch_shape(path, shape) if shape else ()
            raise UserError(
                f"The tensor {name} in {store.source} has shape {store.shapes[name]}, expected "
                f"{expected}; the LoRA belongs to another network."
            )
        check_finite(array, name, store.source)
        adapter[part] = np.asarray(array, np.float32, order="C")
    return {f"{module.network}/{module.path}/{part}": value for part, value in adapter.items()}
