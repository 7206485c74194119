"""Names of adapters' tensors: each module of the networks by its names in every format.

diffusers and PEFT name modules by their paths. kohya's trainers join these by underscores, and also
those of the original layout (`input_blocks.4.1`), which ComfyUI writes with dots.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from ragaf_jax.nets.lora import NETWORKS
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.weights.compvis import unet_naming
from ragaf_jax.weights.names import torch_name

# Prefixes of modules' names by component: a network, or one of SDXL's text encoders, which are one
# network here. The first prefix is written. Those of kohya's files; trainers that support SDXL also
# number the text encoder of other models:
_KOHYA = {
    "unet": ("lora_unet_", "lycoris_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder/clip_l": ("lora_te1_", "lora_te_"),
    "text_encoder/clip_g": ("lora_te2_",),
    "control": ("lora_controlnet_",),
}
# … of diffusers' files, and of ComfyUI's:
_DOTTED = {
    "unet": ("unet.",),
    "text_encoder": (
        "text_encoder.",
        "text_encoders.clip_l.transformer.",
        "text_encoders.clip_h.transformer.",
    ),
    "text_encoder/clip_l": ("text_encoder.", "text_encoders.clip_l.transformer."),
    "text_encoder/clip_g": ("text_encoder_2.", "text_encoders.clip_g.transformer."),
    "control": ("controlnet.",),
}
# ComfyUI's, before names of the original layout.
_COMFY_UNET = "diffusion_model."

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

    @property
    def component(self) -> str:
        """The network, or of SDXL's text encoders one, such as "text_encoder/clip_g"."""
        part = f"{self.network}/{self.path.partition('/')[0]}"
        return part if part in _KOHYA else self.network

    @property
    def own_path(self) -> str:
        """The path in the component."""
        return f"{self.network}/{self.path}".removeprefix(f"{self.component}/")

    @property
    def torch_path(self) -> str:
        """The path in PyTorch's component: `mid_block.resnets.0.conv1`."""
        return torch_name(f"{self.own_path}/kernel").removesuffix(".weight")

    @property
    def kohya_name(self) -> str:
        """The name in kohya's files."""
        return _KOHYA[self.component][0] + self.own_path.replace("/", "_")

    @property
    def diffusers_name(self) -> str:
        """The name in diffusers' files."""
        return _DOTTED[self.component][0] + self.torch_path

    @property
    def diffusers_network(self) -> str:
        """The name of the component in diffusers' files, such as "text_encoder_2"."""
        return _DOTTED[self.component][0].removesuffix(".")


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
    trees = {name: params[name] for name in NETWORKS if name in params}
    return {
        path: tuple(leaf.shape)
        for path, leaf in flatten_dict(trees, sep="/").items()
        if path.endswith(("/kernel", "/scale", "/bias"))
    }


def modules_by_name(leaves: Iterable[str]) -> dict[str, Module]:
    """The modules of these leaves by each of their names.

    PEFT's files have one network and no prefix: the UNet precedes the sketch branch, and SDXL's
    first text encoder the second.
    """
    known: dict[str, Module] = {}
    found = dict.fromkeys(leaf.rpartition("/")[0] for leaf in leaves)
    modules = [Module(*module.split("/", 1)) for module in found]
    original = _original_names([path for network, path in modules if network == "unet"])
    for module in sorted(modules, key=lambda module: tuple(_KOHYA).index(module.component)):
        for prefix in _KOHYA[module.component]:
            known[prefix + module.own_path.replace("/", "_")] = module
        if module.network == "unet":
            name = original[module.path]
            known[_KOHYA["unet"][0] + name.replace(".", "_")] = module
            known[_COMFY_UNET + name] = module
        for prefix in (*_DOTTED[module.component], "base_model.model.", ""):
            known.setdefault(prefix + module.torch_path, module)
            known.setdefault(prefix + module.torch_path.removeprefix("text_model."), module)
    return known


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
