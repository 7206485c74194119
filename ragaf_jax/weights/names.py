"""Parameter names and shapes in PyTorch's diffusers and transformers.

The parameter trees equal those of diffusers' Flax models, so one rule covers every network. An
underscore precedes the number of a list's module here, a dot in PyTorch. Every kernel, scale and
embedding is a "weight" in PyTorch.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# The modules that are lists in PyTorch, unlike `linear_1` and `conv1`.
_LISTS = (
    "down_blocks|up_blocks|resnets|attentions|transformer_blocks|to_out|net|downsamplers"
    "|upsamplers|blocks|controlnet_down_blocks"
)
_MEMBER = re.compile(rf"\b({_LISTS})_(\d+)(?=/)")
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


class Place(NamedTuple):
    """The place of a parameter in a file.

    Attributes:
      name: of the tensor.
      part: (i, n) if the parameter is the i-th of n equal slices along the first axis.
      transposed: whether a matrix has Flax's order of axes, unlike the others.
    """

    name: str
    part: tuple[int, int] | None = None
    transposed: bool = False


# A parameter's path → its possible places; the first existing one is used.
Naming = Callable[[str], tuple[Place, ...]]


def torch_name(path: str) -> str:
    """`down_blocks_0/resnets_1/conv1/kernel` → `down_blocks.0.resnets.1.conv1.weight`."""
    modules, _, leaf = _MEMBER.sub(r"\1.\2", path).rpartition("/")
    return f"{modules.replace('/', '.')}.{_LEAVES[leaf]}"


def unet_names(path: str) -> tuple[Place, ...]:
    """The names of UNet2DConditionModel and of ControlNetModel."""
    return (Place(torch_name(path)),)


# FlaxAutoencoderKL kept the names that PyTorch's attention had until 2023.
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def vae_names(path: str) -> tuple[Place, ...]:
    """The names of AutoencoderKL, current ones and those before 2023."""
    old = torch_name(path)
    pattern = r"(attentions\.\d+)\.(\w+)\."
    new = re.sub(pattern, lambda m: f"{m[1]}.{_VAE_ATTENTION.get(m[2], m[2])}.", old)
    return Place(new), Place(old)


# Tensors of text encoders that are no parameters: a buffer that transformers 4 saved, and a
# projection that Stable Diffusion 1 and 2 do not use.
TEXT_SURPLUS = (r"(text_model\.)?embeddings\.position_ids", r"text_projection\.weight")


def text_names(path: str) -> tuple[Place, ...]:
    """The names of CLIPTextModel; transformers 5 writes them without the first module's name."""
    name = torch_name(path)
    return Place(name), Place(name.removeprefix("text_model."))


def flax_names(path: str) -> tuple[Place, ...]:
    """The names of the Flax models, whose trees are equal."""
    return (Place(path),)


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter in PyTorch's layers."""
    return to_torch(path, np.broadcast_to(np.float32(0), shape)).shape


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
    """A view with PyTorch's order of axes: (in, out) → (out, in), HWIO → OIHW."""
    if not path.endswith("/kernel"):
        return array
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)


def from_torch(path: str, array: np.ndarray, rank: int) -> np.ndarray:
    """The inverse of `to_torch`, for a parameter of `rank` axes.

    A matrix may be stored as a 1×1 convolution, and vice versa.
    """
    if not path.endswith("/kernel"):
        return array
    if array.ndim == 2 and rank == 4:
        array = array[:, :, None, None]
    elif array.ndim == 4 and rank == 2 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
