"""A Flax module and its pretrained parameters, outside of a training run."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.text.clip import ClipText, ClipTextConfig
from ragaf_jax.nets.text.sdxl import PooledClipText, SdxlText, SdxlTextConfig
from ragaf_jax.nets.unet import SIZES, AddedConditions, UNet, UNetConfig
from ragaf_jax.nets.vae import Vae, VaeConfig
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.load import Tree
from ragaf_jax.weights.network import Joint, Network


def load_network(network: Network | Joint, dtype: Dtype = jnp.float32) -> tuple[nn.Module, Tree]:
    """The module of a network and its parameters, both of `dtype`.

        checkpoint = open_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
        unet, params = load_network(checkpoint.unet, jnp.bfloat16)
        noise = unet.apply({"params": params}, latents, timesteps, text_states)

    Raises:
      UserError: the weights are damaged or of another network than their configuration.
    """
    module = module_of(network.config, dtype)
    return module, network.load(abstract_params(module, dtype))


def module_of(config: Any, dtype: Dtype = jnp.float32) -> nn.Module:
    """The network of these sizes; for a `ClipTextConfig` with a projection, `PooledClipText`."""
    match config:
        case UNetConfig():
            return UNet(config, dtype)
        case ControlConfig():
            return ControlNet(config.unet, config.conditioning_channels, dtype)
        case VaeConfig():
            return Vae(config, dtype)
        case ClipTextConfig(projection_dim=None):
            return ClipText(config, dtype=dtype)
        case ClipTextConfig():
            return PooledClipText(config, dtype=dtype)
        case SdxlTextConfig():
            return SdxlText(config, dtype=dtype)
    raise TypeError(f"a {type(config).__name__} describes no network of Stable Diffusion")


def abstract_params(module: Any, dtype: Dtype = jnp.float32) -> Tree:
    """The shapes of a network's parameters, in `dtype`; nothing is computed."""
    inputs, added = _example(module)
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs, **added)["params"]
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)


def _example(module: Any) -> tuple[tuple[jax.ShapeDtypeStruct, ...], dict[str, Any]]:
    """The smallest inputs of a network, and those with names."""

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    config = module.config
    if isinstance(module, ClipText | PooledClipText | SdxlText):
        return (jax.ShapeDtypeStruct((1, 1), jnp.int32),), {}
    if isinstance(module, Vae):
        return (floats(1, config.downscale, config.downscale, config.in_channels),), {}
    side = 2 ** len(config.block_out_channels)
    text = floats(1, 1, config.cross_attention_dim)
    inputs = floats(1, side, side, config.in_channels), floats(1), text
    added = {}
    if config.addition_embed_type is not None:
        added = {"added": AddedConditions(floats(1, config.pooled_width), floats(1, SIZES))}
    if isinstance(module, ControlNet):
        scale = 2 ** (len(module.conditioning_channels) - 1)
        return (*inputs, floats(1, scale * side, scale * side, 3)), added
    return inputs, added
