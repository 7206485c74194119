"""Names of adapters' tensors: each module of the networks by its names in every format.

diffusers and PEFT name modules by their paths. kohya's trainers join these by underscores, and also
those of the original layout (`input_blocks.4.1`), which ComfyUI writes with dots.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.weights.compvis import unet_naming
from ragaf_jax.weights.names import torch_name

KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "control": "lora_controlnet_"}
DIFFUSERS = {"unet": "unet.", "text_encoder": "text_encoder.", "control": "controlnet."}
# Prefixes of ComfyUI, before names of the original layout and of transformers.
_COMFY_UNET = "diffusion_model."
_COMFY_TEXT = ("text_encoders.clip_l.transformer.", "text_encoders.clip_h.transformer.")

# Parts that are parameters of a module in PyTorch's names, with optional names of adapters.
_NAMED = r"(?:\.\w+)?\.weight"
_PARTS = {
    "down": rf"lora_A{_NAMED}|lora_down\.weight|lora\.down\.weight|lora_linear_layer\.down\.weight",
    "up": rf"lora_B{_NAMED}|lora_up\.weight|lora\.up\.weight|lora_linear_layer\.up\.weight",
    "mid": r"lora_mid\.weight",
    "alpha": "alpha",
    "dora_scale": "dora_scale",
    "lora_magnitude_vector": rf"lora_magnitude_vector(?:{_NAMED})?",
    **{name: rf"{name}(?:\.\w+)?" for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{name: rf"{name}(?:\.\w+)?" for name in ("hada_t1", "hada_t2", "lokr_t2")},
    **{name: rf"{name}(?:\.\w+)?" for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b")},
    **{name: rf"{name}(?:\.\w+)?" for name in ("lokr_w2", "lokr_w2_a", "lokr_w2_b")},
    "diff": "diff|w_norm",
    "diff_b": "diff_b|b_norm",
}
_TENSOR = re.compile(
    rf"(?P<module>.+)\.(?:{'|'.join(f'(?P<{part}>{names})' for part, names in _PARTS.items())})"
)
# diffusers' names before 2023-12: attn1.processor.to_q_lora.down.weight
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_\w+?)_lora\.(down|up)\.weight")
# … and of the text encoder: text_encoder.….self_attn.to_out_lora.down.weight
_TEXT_PROCESSOR = re.compile(r"(.+\.self_attn)\.to_(q|k|v|out)_lora\.(down|up)\.weight")


class Module(NamedTuple):
    """A module with parameters: "unet" and "mid_block/resnets_0/conv1"."""

    network: str
    path: str


def parsed(name: str) -> tuple[str, str]:
    """(module, part) of a tensor's name; the part is a key of `_PARTS`, or "" for others."""
    if old := _PROCESSOR.fullmatch(name):
        module = f"{old[1]}.{'to_out.0' if old[2] == 'to_out' else old[2]}"
        return module, old[3]
    if old := _TEXT_PROCESSOR.fullmatch(name):
        return f"{old[1]}.{old[2]}_proj", old[3]
    match = _TENSOR.fullmatch(name)
    if match is None:
        return name, ""
    return match["module"], next(part for part in _PARTS if match[part])


def leaf_shapes(params: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the kernels, scales and biases of UNet, text encoder and sketch branch, by path."""
    trees = {name: params[name] for name in KOHYA if name in params}
    return {
        path: tuple(leaf.shape)
        for path, leaf in flatten_dict(trees, sep="/").items()
        if path.endswith(("/kernel", "/scale", "/bias"))
    }


def modules_by_name(leaves: Iterable[str]) -> dict[str, Module]:
    """The modules of these leaves by each of their names.

    PEFT's files have one network and no prefix: the UNet precedes the sketch branch.
    """
    known: dict[str, Module] = {}
    found = dict.fromkeys(leaf.rpartition("/")[0] for leaf in leaves)
    modules = [Module(*module.split("/", 1)) for module in found]
    original = _original_names([path for network, path in modules if network == "unet"])
    for module in sorted(modules, key=lambda module: tuple(KOHYA).index(module.network)):
        network, path = module
        kohya, torch = path.replace("/", "_"), torch_module(path)
        known[KOHYA[network] + kohya] = module
        prefixes = [DIFFUSERS[network], "base_model.model.", ""]
        if network == "unet":
            known[f"lycoris_{kohya}"] = module
            known[KOHYA[network] + original[path].replace(".", "_")] = module
            known[_COMFY_UNET + original[path]] = module
        if network == "text_encoder":  # trainers that support SDXL number its text encoders
            known[f"lora_te1_{kohya}"] = module
            prefixes += _COMFY_TEXT
        for prefix in prefixes:
            known.setdefault(prefix + torch, module)
            known.setdefault(prefix + torch.removeprefix("text_model."), module)
    return known


def torch_module(path: str) -> str:
    """`down_blocks_0/resnets_1/conv1` → `down_blocks.0.resnets.1.conv1`."""
    return torch_name(f"{path}/kernel").removesuffix(".weight")


def _original_names(paths: Iterable[str]) -> dict[str, str]:
    """The names of a UNet's modules in the original layout, by path."""
    paths = list(paths)

    def numbers(pattern: str) -> set[str]:
        return {match[1] for path in paths if (match := re.match(pattern, path))}

    levels = len(numbers(r"up_blocks_(\d+)/"))
    attends = numbers(r"up_blocks_(\d+)/attentions_")
    # The names depend on these fields alone.
    config = UNetConfig(
        block_out_channels=(32,) * levels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if str(i) in attends else "UpBlock2D" for i in range(levels)
        ),
        layers_per_block=len(numbers(r"down_blocks_0/resnets_(\d+)/")),
    )
    naming = unet_naming(config)
    return {path: naming(f"{path}/kernel")[0].name.removesuffix(".weight") for path in paths}
