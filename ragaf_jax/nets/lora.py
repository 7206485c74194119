"""Low-rank adaptation (Hu et al. 2021) of dense layers and convolutions, selected by path.

The network's parameters are unchanged; a second tree with the same paths holds `down`, `up` and
`alpha` of the adapted modules. y = W·x becomes y = W·x + (alpha / rank) · up·down·x (eq. 3), either
in the forward pass (`adapted`) or merged into W.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ragaf_jax.errors import UserError
from ragaf_jax.nets.layers import PRODUCT, Conv3x3, Dense

Tree = Mapping[str, Any]

# The networks that may have adapters.
NETWORKS = ("unet", "control", "text_encoder")


@dataclass(frozen=True)
class LoraConfig:
    """The adapted modules and the sizes of their adapters.

    Attributes:
      patterns: regular expressions over whole paths of modules, network first, such as
        "unet/.*/attn[12]/to_[qkv]".
      rank: inner width r; more than a module's own widths has no use.
      alpha: the update is scaled by alpha / rank.
      dropout: share of the inputs of `down` that are dropped in training.
    """

    patterns: tuple[str, ...]
    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"lora.patterns has {pattern!r}: {error}") from None
        if self.rank < 1:
            raise ValueError(f"lora.rank is {self.rank}, expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout is {self.dropout}, expected 0 to below 1")


def init_lora(config: LoraConfig, params: Tree, rng: PRNGKeyArray) -> Tree:
    """Initial float32 adapters without effect: `up` is zero (§4.1).

    `down` is uniform with the variance of PyTorch's layers, 1 / (3 fan_in). `params` are trees of
    networks by name, or their shapes.

    Returns:
      {network: {path of a module …: {"down", "up", "alpha"}}}, only of adapted networks.

    Raises:
      UserError: a pattern that matches no dense layer or convolution of `NETWORKS`.
    """
    shapes = {
        path.removesuffix("/kernel"): leaf.shape
        for path, leaf in flatten_dict(params, sep="/").items()
        if path.startswith(tuple(f"{name}/" for name in NETWORKS))
        and path.endswith("/kernel")
        and len(leaf.shape) in (2, 4)
    }
    for pattern in config.patterns:
        if not any(re.fullmatch(pattern, path) for path in shapes):
            raise UserError(
                f"config.model.lora.patterns has {pattern!r}, which matches no dense layer or "
                f"convolution of {', '.join(NETWORKS)}; give patterns such as 'unet/.*/to_[qkv]'."
            )
    chosen = [p for p in shapes if any(re.fullmatch(pattern, p) for pattern in config.patterns)]
    flat = {}
    for path, key in zip(chosen, jax.random.split(rng, max(1, len(chosen))), strict=False):
        *window, fan_in, features = shapes[path]
        bound = (math.prod(window) * fan_in) ** -0.5
        down = (*window, fan_in, config.rank)
        flat[f"{path}/down"] = jax.random.uniform(key, down, minval=-bound, maxval=bound)
        flat[f"{path}/up"] = jnp.zeros((*[1 for _ in window], config.rank, features))
        flat[f"{path}/alpha"] = jnp.float32(config.alpha)
    return unflatten_dict(flat, sep="/")


@contextlib.contextmanager
def adapted(lora: Tree, dropout: float = 0.0, rng: PRNGKeyArray | None = None) -> Iterator[None]:
    """A context in which a network's output includes its adapters, which may be empty.

    `dropout` is the share of inputs to drop with `rng`, which is None in inference.
    """
    adapters = adapters_by_path(lora)
    keys = {}
    if rng is not None and dropout > 0:
        keys = dict(zip(adapters, jax.random.split(rng, len(adapters)), strict=True))

    def intercept(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y, module = method(*args, **kwargs), context.module
        path = "/".join(module.path)
        if path not in adapters or context.method_name != "__call__":
            return y
        (x,) = args
        if path in keys:
            kept = jax.random.bernoulli(keys[path], 1 - dropout, x.shape)
            x = jnp.where(kept, x / (1 - dropout), 0)
        return y + _update(module, adapters[path], x).astype(y.dtype)

    with nn.intercept_methods(intercept) if adapters else contextlib.nullcontext():
        yield


def merged(params: Tree, lora: Tree) -> Tree:
    """One network's parameters with its adapters merged into them."""
    flat = flatten_dict(params, sep="/")
    for path, adapter in adapters_by_path(lora).items():
        kernel = flat[f"{path}/kernel"]
        update = adapter["down"] @ adapter["up"].reshape(adapter["up"].shape[-2:])
        update = _scale(adapter) * update.reshape(kernel.shape)
        flat[f"{path}/kernel"] = (kernel + update).astype(kernel.dtype)
    return unflatten_dict(flat, sep="/")


def adapters_by_path(lora: Tree) -> dict[str, dict[str, Any]]:
    """{"mid_block/attentions_0/proj_in": {"down", "up", "alpha"}, …} of one network's tree."""
    adapters: dict[str, dict[str, Any]] = {}
    for path, leaf in flatten_dict(lora, sep="/").items():
        module, _, name = path.rpartition("/")
        adapters.setdefault(module, {})[name] = leaf
    return adapters


def _scale(adapter: Mapping[str, Any]) -> Float[Array, ""]:
    """alpha / rank; alpha is a constant of the adapter, not a parameter."""
    return jax.lax.stop_gradient(jnp.asarray(adapter["alpha"])) / adapter["down"].shape[-1]


def _update(module: Any, adapter: Mapping[str, Any], x: Array) -> Array:
    if not isinstance(module, Dense | Conv3x3):
        raise TypeError(f"{'/'.join(module.path)} is a {type(module).__name__}, no dense or conv")
    # A narrower copy of the module, with its strides, padding and dtype.
    rank = adapter["down"].shape[-1]
    narrow = module.clone(features=rank, use_bias=False, parent=None, name=None)
    hidden = narrow.apply({"params": {"kernel": adapter["down"]}}, x)
    up = adapter["up"].reshape(adapter["up"].shape[-2:])
    return checkpoint_name(hidden @ (_scale(adapter) * up).astype(hidden.dtype), PRODUCT)
