"""Reads and writes LoRA files of other programs: diffusers (PEFT's names) and kohya.

A file holds two matrices per module. Every dense layer and convolution of the networks is listed
under its names in each format, and a file's tensors are looked up there.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from ragaf_jax.errors import UserError
from ragaf_jax.nets.lora import adapters_by_path
from ragaf_jax.weights import stores
from ragaf_jax.weights.adapters.matching import not_read, tensors_by_module
from ragaf_jax.weights.adapters.opening import AdapterFile, open_adapter, settings_alpha
from ragaf_jax.weights.adapters.tensor_names import Module, leaf_shapes
from ragaf_jax.weights.load import check_finite
from ragaf_jax.weights.names import from_torch, to_torch, torch_shape

Tree = dict[str, Any]

FORMATS = ("diffusers", "kohya")

# Tensors of LyCORIS' and other adapters that are not two matrices.
_OTHER_KINDS = re.compile(
    r"\.(lora_mid|dora_scale|lora_magnitude_vector|hada_w\w+|lokr_w\w+|diff_b|diff|oft_\w+"
    r"|w_norm|b_norm)\b"
)


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
    opened = open_adapter(path)
    for name in opened.store.shapes:
        if other := _OTHER_KINDS.search(name):
            raise UserError(
                f"The tensor {name} in {opened.store.source} belongs to an adapter with "
                f"{other[1]}, expected LoRA's two matrices per module: LoHa, LoKr, DoRA, Tucker "
                "cores, biases and norms can be sampled by --lora, but not trained further."
            )
    leaves = leaf_shapes(params)
    tree: Tree = {}
    for module, names in tensors_by_module(opened, leaves).items():
        kernel = leaves.get(f"{module.network}/{module.path}/kernel")
        if kernel is None:
            raise not_read(next(iter(names.values())), opened.store, leaves)
        tree |= _adapter(opened, module, kernel, names)
    return unflatten_dict(tree, sep="/")


def lora_tensors(lora: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
    """The tensors of the adapters in the format `kind`, one of `FORMATS`, in float32.

    diffusers reads no alpha from the tensors, so its second matrix includes the factor.
    """
    tensors: dict[str, np.ndarray] = {}
    for network, tree in lora.items():
        for path, adapter in adapters_by_path(tree).items():
            module = Module(network, path)
            pair = (np.asarray(adapter[name], np.float32) for name in ("down", "up"))
            down, up = (to_torch(f"{path}/kernel", matrix) for matrix in pair)
            alpha = np.asarray(adapter["alpha"], np.float32)
            if kind == "kohya":
                name = module.kohya_name
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
                tensors[f"{name}.alpha"] = alpha
            else:
                name = module.diffusers_name
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


def _adapter(
    opened: AdapterFile, module: Module, kernel: tuple[int, ...], names: Mapping[str, str]
) -> Tree:
    store, path = opened.store, f"{module.path}/kernel"
    *window, fan_in, features = kernel
    if missing := {"down", "up"} - set(names):
        raise UserError(
            f"{store.source} holds {', '.join(names.values())} without its other half "
            f"({', '.join(sorted(missing))}); the file is incomplete."
        )
    rank = max((1, *store.shapes[names["down"]][:1]))
    shapes = {
        "down": (*window, fan_in, rank),
        "up": (*(1 for _ in window), rank, features),
        "alpha": (),
    }
    adapter: Tree = {"alpha": np.float32(settings_alpha(opened, module, rank))}
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
