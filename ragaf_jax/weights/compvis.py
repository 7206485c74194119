"""Tensor names of single files: CompVis's Stable Diffusion and lllyasviel's ControlNet."""

import re

from ragaf_jax.errors import UserError
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.names import Naming, Place, torch_name
from ragaf_jax.weights.stores import Renamed, Store, under

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
# Of SDXL's two text encoders.
CLIP_L, CLIP_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
CONTROL = "control_model."
EMA = "model_ema."

# OpenCLIP's head, which SD 2 does not use, and a buffer.
OPEN_CLIP_HEAD = ("text_projection", "logit_scale")
OPEN_CLIP_SURPLUS = (*OPEN_CLIP_HEAD, "attn_mask")
# Remainders of the autoencoder's training in some files.
VAE_SURPLUS = (r"loss\..*", r"model_ema\..*")

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def is_compvis(store: Store) -> bool:
    """Whether the tensors are a whole Stable Diffusion in the original layout."""
    return any(name.startswith(UNET) for name in store.shapes)


def averaged_unet(store: Store) -> Renamed:
    """The averaged UNet of a whole Stable Diffusion in the original layout, by plain names.

    Its tensors have the plain ones' names without dots, after "model_ema." (LitEma in CompVis's
    latent-diffusion).

    Raises:
      UserError: the file has none, or only a part.
    """
    names = {
        name: EMA + f"{UNET}{name}".removeprefix("model.").replace(".", "")
        for name in under(store, UNET).names
    }
    if missing := [name for name in names.values() if name not in store.shapes]:
        raise UserError(
            f"config.init.ema is True and {store.source} has no averaged UNet (no tensor "
            f"{missing[0]}); leave it out, because such files hold one set of weights."
        )
    return Renamed(store, names)


def control_store(store: Store) -> Store | None:
    """The tensors of a ControlNet in the original layout, or None if there are none.

    Raises UserError if they are differences to a UNet's weights.
    """
    if "difference" in store.shapes:
        raise UserError(
            f"{store.source} holds differences to a UNet's weights (the tensor 'difference'), "
            "expected whole weights; give the ControlNet in diffusers' layout or another file."
        )
    for prefix in (CONTROL, ""):
        if f"{prefix}input_hint_block.0.weight" in store.shapes:
            return under(store, prefix)
    return None


def text_prefix(store: Store) -> str:
    """The prefix of the text encoder of SD 1 or 2; raises UserError if there is none."""
    for prefix in (CLIP, OPEN_CLIP):
        if any(name.startswith(prefix) for name in store.shapes):
            return prefix
    raise UserError(
        f"{store.source} has no text encoder under {CLIP} or {OPEN_CLIP}, expected a whole Stable "
        "Diffusion; parts of checkpoints are not supported."
    )


def unet_naming(config: UNetConfig) -> Naming:
    """Names of a UNet of these sizes."""
    return lambda path: (Place(_unet_name(torch_name(path), config)),)


def control_naming(config: ControlConfig) -> Naming:
    """Names of a ControlNet of these sizes."""
    last = f"input_hint_block.{4 * len(config.conditioning_channels) - 2}"

    def naming(path: str) -> tuple[Place, ...]:
        name = torch_name(path)
        if name.startswith("controlnet_cond_embedding.conv_out."):
            return (Place(f"{last}.{name.rpartition('.')[2]}"),)
        name = re.sub(r"^controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0", name)
        name = re.sub(
            r"^controlnet_cond_embedding\.blocks\.(\d+)",
            lambda m: f"input_hint_block.{2 * int(m[1]) + 2}",
            name,
        )
        return (Place(_unet_name(name, config.unet)),)

    return naming


def _unet_name(name: str, config: UNetConfig) -> str:
    """diffusers' name of a UNet's tensor → the original one, which numbers blocks consecutively."""
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if m := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.*)", name):
        return f"middle_block.{2 * int(m[1])}.{_resnet(m[2])}"
    m = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if m is None:
        return name
    block, index, rest = int(m[2]), int(m[4]), m[5]
    # A downsampler follows each down block; an up block has one more layer instead.
    first = block * (config.layers_per_block + 1)
    match m[1], m[3]:
        case "down", "downsamplers":
            place = first + config.layers_per_block + 1
            return f"input_blocks.{place}.0.{rest.replace('conv', 'op')}"
        case "up", "upsamplers":
            attends = config.up_block_types[block] == "CrossAttnUpBlock2D"
            place = first + config.layers_per_block
            return f"output_blocks.{place}.{2 if attends else 1}.{rest}"
        case direction, kind:
            is_down = direction == "down"
            layer = f"{'input' if is_down else 'output'}_blocks.{first + index + is_down}"
            return f"{layer}.0.{_resnet(rest)}" if kind == "resnets" else f"{layer}.1.{rest}"


def _resnet(rest: str) -> str:
    module, _, leaf = rest.rpartition(".")
    return f"{_RESNET[module]}.{leaf}"


def vae_naming(config: VaeConfig) -> Naming:
    """Names of an autoencoder of these sizes."""
    levels = len(config.block_out_channels)

    def block(m: re.Match[str]) -> str:
        level = int(m[2]) if m[1] == "down" else levels - 1 - int(m[2])
        part = f"block.{m[4]}" if m[3] == "resnets" else m[3].removesuffix("rs")
        return f"{m[1]}.{level}.{part}."

    def original(name: str) -> str:
        name = re.sub(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.", block, name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(
            r"mid_block\.attentions\.0\.(\w+)", lambda m: f"mid.attn_1.{_VAE_ATTENTION[m[1]]}", name
        )
        return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")

    return lambda path: (Place(original(torch_name(path))),)


def open_clip_names(path: str) -> tuple[Place, ...]:
    """Names of OpenCLIP's text encoder, which stores queries, keys and values as one tensor."""
    if path == "text_projection/kernel":
        return (Place("text_projection", transposed=True),)
    name = torch_name(path).removeprefix("text_model.")
    ends = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    if name in ends:
        return (Place(ends[name]),)
    m = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
    assert m is not None, name
    block = f"transformer.resblocks.{m[1]}"
    if part := re.fullmatch(r"self_attn\.([qkv])_proj", m[2]):
        return (Place(f"{block}.attn.in_proj_{m[3]}", ("qkv".index(part[1]), 3)),)
    return (Place(f"{block}.{_OPEN_CLIP_LAYER[m[2]]}.{m[3]}"),)
