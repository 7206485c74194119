"""Shapes of networks and batches for plans, which have neither."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from ml_collections import ConfigDict

from ragaf_jax.batch import Batch, Text
from ragaf_jax.caches import cached_kinds
from ragaf_jax.framing import Size, bucket_name, parse_buckets
from ragaf_jax.graph.features import EDGE_FEATURES, NODE_FEATURES
from ragaf_jax.nets.model import Model
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import SIZES, UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.training.adopt import fields_of, pretrained_fields, with_fields
from ragaf_jax.weights.pretrained import open_pretrained

# The noise schedule of the published Stable Diffusion 1.5 and of SDXL's base model.
_DIFFUSION = {
    "schedule": "scaled_linear",
    "steps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "zero_terminal_snr": False,
    "prediction": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "distilled_steps": 0,
    "distilled_sampler": "euler",
    "distilled_guidance": 1.0,
    "original_steps": 50,
}


def with_known_sizes(config: ConfigDict) -> tuple[ConfigDict, str]:
    """`config` with the networks' sizes of `config.init.checkpoint`, and a notice.

    Only a local checkpoint is read: a plan downloads nothing and assumes that a hub id is SDXL's
    base model if its name has "xl", else Stable Diffusion 1.5. Without a checkpoint `config` is
    unchanged.
    """
    where = config.init.checkpoint
    if not where:
        return config, ""
    if Path(where).expanduser().exists():
        vae = config.init.vae if Path(config.init.vae).expanduser().exists() else ""
        pretrained = open_pretrained(where, config.init.variant, vae=vae)
        return with_fields(config, pretrained_fields(config, pretrained)), f"Sizes of {where}."
    is_xl = "xl" in where.lower()
    assumed = "SDXL's base model" if is_xl else "Stable Diffusion 1.5"
    fields = stable_diffusion_xl() if is_xl else stable_diffusion_15()
    notice = f"{where} is not on this machine: the sizes are those of {assumed}."
    return with_fields(config, fields), notice


def stable_diffusion_15() -> dict[str, Any]:
    """The fields that `pretrained_fields` reads from the published Stable Diffusion 1.5."""
    return fields_of(UNetConfig(), ClipTextConfig(), VaeConfig(), _DIFFUSION)


def stable_diffusion_xl() -> dict[str, Any]:
    """The fields that `pretrained_fields` reads from the published base model of SDXL."""
    unet = UNetConfig(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2, 10),
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    second = ClipTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        hidden_act="gelu",
        projection_dim=1280,
    )
    vae = VaeConfig(sample_size=1024, scaling_factor=0.13025, force_upcast=True)
    return fields_of(unet, SdxlTextConfig(ClipTextConfig(), second), vae, _DIFFUSION)


def by_bucket(config: ConfigDict) -> list[ConfigDict]:
    """`config` with each of its buckets alone, the largest first; without buckets itself."""
    if not config.data.buckets:
        return [config]
    names = map(bucket_name, _sizes(config))
    return [with_fields(config, {"data.buckets": (name,)}) for name in names]


def _sizes(config: ConfigDict) -> list[Size]:
    """Heights and widths of training's images, the largest area first."""
    side = config.data.image_size
    sizes = parse_buckets(config.data.buckets, side) or ((side, side),)
    return sorted(sizes, key=lambda size: size[0] * size[1], reverse=True)


def batch_shapes(config: ConfigDict, model: Model) -> Batch:
    """The shapes of a step's batch, of the largest bucket if there are any.

    Caches of `config.data.cache` replace images and text.
    """
    examples = config.train.batch_size + config.train.read_examples
    kinds = cached_kinds(config.data.cache, "config.data.cache")
    size, regions, edges = _sizes(config)[0], model.max_regions, model.max_edges

    def of(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((examples, *shape), dtype)

    latents = of(*model.latent_shape_of(size), dtype=jnp.bfloat16) if "latents" in kinds else None
    width, pooled = model.text_encoder.config.hidden_size, model.unet.config.pooled_width
    return Batch(
        image=None if "latents" in kinds else of(*size, 3),
        sketch=of(*size, 3),
        labels=of(*size, dtype=jnp.int32),
        graph=jraph.GraphsTuple(
            nodes=of(regions, len(NODE_FEATURES)),
            edges=of(edges, len(EDGE_FEATURES)),
            senders=of(edges, dtype=jnp.int32),
            receivers=of(edges, dtype=jnp.int32),
            n_node=of(2, dtype=jnp.int32),
            n_edge=of(2, dtype=jnp.int32),
            globals=None,
        ),
        text=Text(
            of(model.text_length, dtype=jnp.int32),
            of(model.text_length, dtype=jnp.bool_),
            states=of(model.text_length, width, dtype=jnp.bfloat16) if "text" in kinds else None,
            pooled=of(pooled, dtype=jnp.bfloat16) if pooled and "text" in kinds else None,
        ),
        latent_mean=latents,
        latent_std=latents,
        sizes=of(SIZES),
    )
