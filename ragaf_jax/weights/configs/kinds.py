"""Detects weights of other models than Stable Diffusion 1, 2 and XL, for errors.

Each kind has a unique component folder, field of the UNet's configuration, or tensor name, which
the errors name. `names` are those of a folder's files, relative to it, or of a file's tensors;
`source` is the folder, file or hub id.
"""

import re
from collections.abc import Collection

from ragaf_jax.errors import UserError
from ragaf_jax.nets.unet import TEXT_TIME, UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs.fields import Json, shown

# Components of a folder in diffusers' layout, and the only kind of model with them.
_COMPONENTS = {
    "text_encoder_3": "Stable Diffusion 3",
    "transformer": "a diffusion transformer, such as Stable Diffusion 3, Flux or PixArt",
    "image_noising_scheduler": "a Stable unCLIP, whose UNet also reads an image's embedding",
    "image_normalizer": "a Stable unCLIP, whose UNet also reads an image's embedding",
    "depth_estimator": "a depth-to-image model, whose UNet also reads a depth map",
    "low_res_scheduler": "an upscaler, whose UNet also reads a small image",
    "prior": "a cascade of a prior and a decoder, such as Kandinsky or Stable Cascade",
    "movq": "Kandinsky, which has another autoencoder",
    "vqgan": "Wuerstchen or Stable Cascade, which have another autoencoder",
    "motion_adapter": "AnimateDiff, a model of videos",
}
_INSTEAD_OF_UNET = ("transformer", "prior")
SDXL = "of Stable Diffusion XL"
# Fields of a UNet's config.json: name, value or None for any that is set, and the kind.
_REFINER = 2560
REFINER = "of SDXL's refiner, which continues the images of the base model"
_UNETS = (
    ("_class_name", "UNetSpatioTemporalConditionModel", "of Stable Video Diffusion"),
    ("_class_name", "UNet3DConditionModel", "of a model of videos"),
    ("_class_name", "UNetMotionModel", "of AnimateDiff, a model of videos"),
    ("_class_name", "Kandinsky3UNet", "of Kandinsky 3"),
    ("_class_name", "StableCascadeUNet", "of Stable Cascade"),
    ("num_control_type", None, "a ControlNet-union, which reads the type of its image"),
    (
        "projection_class_embeddings_input_dim",
        _REFINER,
        REFINER,
    ),
    ("addition_embed_type", None, "of another model (Kandinsky, DeepFloyd IF)"),
    ("encoder_hid_dim_type", "ip_image_proj", "with an IP-Adapter in it"),
    ("encoder_hid_dim_type", None, "of another model (Kandinsky, DeepFloyd IF)"),
    ("class_embed_type", "projection", "of a Stable unCLIP, which reads an image's embedding"),
    ("num_class_embeds", None, "of an upscaler, which reads a noise level"),
)
# Input channels of UNets with more than a latent of four.
_INPUTS = {
    5: "depth-to-image, which reads a depth map",
    7: "an upscaler, which reads a small image",
    8: "editing (InstructPix2Pix) or a latent upscaler, which read a second image",
    9: "inpainting, which reads a mask and the masked image",
}
WHOLE = "a whole Stable Diffusion"
CONTROL = "a ControlNet"
ONE_NETWORK = "one network in diffusers' layout"
LORA = "a LoRA or LyCORIS adapter"
_HINT = r"^(control_model\.)?input_hint_block\.|^controlnet_"
# Tensor names, in order of precedence.
_FILES = (
    (r"(^|\.)ia3_l\b|\.on_input$", "an IA³ adapter"),
    (r"^lora_.*\.[ab][12]\.weight$", "a GLoRA adapter"),
    (r"lllite_", "a ControlNet-LLLite"),
    (
        r"^(task_embedding|control_add_embedding\.|transformer_layes\.|control_type_proj\.)",
        "a ControlNet-union, which reads the type of its image",
    ),
    (r"^lora_controlnet$", "a control-LoRA, a ControlNet as differences to a UNet's weights"),
    (r"^(image_proj|ip_adapter)\.|_ip\.weight$", "an IP-Adapter"),
    (r"^emb_params$|string_to_param|^clip_[lg]$", "a textual inversion"),
    (r"^(adapter\.)?body\.\d+\.(resnets|block1|in_conv)", "a T2I-Adapter"),
    (r"motion_modules\.", "a motion module of AnimateDiff"),
    (
        r"double_blocks[._]\d|joint_blocks[._]\d|single_blocks[._]\d|^(lora_)?transformer[._]",
        "of a diffusion transformer, such as Stable Diffusion 3 or Flux",
    ),
    (
        r"^conditioner\.embedders\.|^lora_te2_|^text_encoder_2\.|^text_encoders\.clip_g\."
        r"|(down_blocks[._]\d|mid_block|up_blocks[._]\d)[._]attentions[._]\d[._]"
        r"transformer_blocks[._][2-9]|(input_blocks[._]\d+|middle_block|output_blocks[._]\d+)"
        r"[._]1[._]transformer_blocks[._][1-9]",
        SDXL,
    ),
    (r"^noise_augmentor\.", "a Stable unCLIP, whose UNet also reads an image's embedding"),
    (r"^model\.diffusion_model\.label_emb\.", "a model whose UNet reads a class or an image"),
    (r"^lora_|\.lora_(A|B|up|down)\b|\.hada_w|\.lokr_w", LORA),
    (_HINT, CONTROL),
    (r"^model\.diffusion_model\.", WHOLE),
    (r"^down_blocks\.\d+\.(resnets|attentions)\.", ONE_NETWORK),
    (r"^(encoder|decoder)\.(down|up|mid)", "a VAE alone"),
    (r"^(text_model\.)?encoder\.layers\.|^text_model\.", "a text encoder alone"),
)
# Hints by kind.
INSTEAD = {
    LORA: "name it as config.init.lora",
    CONTROL: "name it as config.init.control",
    WHOLE: "name it as config.init.checkpoint",
    ONE_NETWORK: "give the folder that its own folder is in",
}


def check_components(names: Collection[str], source: str) -> None:
    """Raises UserError for a folder in diffusers' layout of another model."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    for component, kind in _COMPONENTS.items():
        if component in folders and not (component in _INSTEAD_OF_UNET and "unet" in folders):
            raise UserError(
                f"{source} is {kind} (it has {component}/), expected a Stable Diffusion 1, 2 or "
                "XL; give one of those."
            )


def check_unet(config: Json, source: str) -> None:
    """Raises UserError for the config.json of another model's UNet or ControlNet."""
    for name, value, kind in _UNETS:
        found = config.get(name)
        if found not in (None, False, TEXT_TIME) and value in (None, found):
            raise UserError(
                f"{name} in {source} is {shown(found)}: the network is {kind}; give a Stable "
                "Diffusion 1, 2 or XL."
            )


def check_no_refiner(unet: UNetConfig | None, source: str) -> None:
    """Raises UserError for the UNet of SDXL's refiner."""
    if unet is not None and unet.projection_class_embeddings_input_dim == _REFINER:
        raise UserError(
            f"{source} is {REFINER}, as the width {_REFINER} of its pooled text and sizes shows; "
            "give the base model."
        )


def check_channels(unet: UNetConfig | None, vae: VaeConfig | None, source: str) -> None:
    """Raises UserError for networks whose channels are of another task; None: no such network."""
    if vae is not None and (vae.in_channels, vae.out_channels) != (3, 3):
        raise UserError(
            f"in_channels and out_channels of the VAE of {source} are {vae.in_channels} and "
            f"{vae.out_channels}, expected the 3 of an RGB image: it is for another task (LDM3D, "
            "whose images have a depth map); give a text-to-image model."
        )
    if unet is None:
        return
    # Without a VAE, at most the UNet's outputs, which may include a variance.
    latent = vae.latent_channels if vae is not None else min(unet.in_channels, unet.out_channels)
    if unet.in_channels != latent:
        task = _INPUTS.get(unet.in_channels, "another task (inpainting, depth, editing)")
        raise UserError(
            f"in_channels of the UNet of {source} is {unet.in_channels}, expected the {latent} of "
            f"a latent: it is for {task}; give a text-to-image model."
        )


def file_kind(names: Collection[str], besides: str = "") -> tuple[str, str] | None:
    """(kind, tensor that shows it) of a file by its tensor names, or None if unknown.

    `besides`: a kind to ignore.
    """
    rows = ((pattern, kind) for pattern, kind in _FILES if kind != besides)
    found = ((kind, name) for pattern, kind in rows for name in names if re.search(pattern, name))
    return next(found, None)


def check_file(names: Collection[str], expected: str, source: str) -> None:
    """Raises UserError for a file of known kind in place of `expected`."""
    found = file_kind(names)
    if found is not None and found[0] == SDXL:
        # What it is matters more than its generation, which is accepted.
        found = file_kind(names, besides=SDXL) or found
    if found is not None:
        kind, tensor = found
        hint = INSTEAD.get(kind, "give one of those")
        raise UserError(
            f"{source} is {kind}, as its tensor {tensor} shows, expected {expected}; {hint}."
        )


def check_control(names: Collection[str], source: str) -> None:
    """Raises UserError for a file of known kind that is no ControlNet."""
    found = file_kind(names)
    is_sdxl = found is not None and found[0] == SDXL and any(re.search(_HINT, x) for x in names)
    if found is not None and found[0] not in (CONTROL, ONE_NETWORK) and not is_sdxl:
        check_file(names, "a ControlNet of Stable Diffusion", source)


def check_whole_file(names: Collection[str], source: str) -> None:
    """Raises UserError for a single file with another model's UNet in the original layout."""
    prefixes = "model.diffusion_model.", "conditioner.", "noise_augmentor."
    parts = [name for name in names if name.startswith(prefixes)]
    if (found := file_kind(parts)) is not None and found[0] not in (WHOLE, SDXL):
        check_file(parts, "a Stable Diffusion 1, 2 or XL", source)


def check_not_unet_alone(names: Collection[str], source: str) -> None:
    """Raises UserError for a single file that holds only a UNet."""
    if all(name.startswith("model.diffusion_model.") for name in names):
        raise UserError(
            f"{source} is a UNet alone in the original layout, expected a whole Stable Diffusion "
            "1, 2 or XL; give a file that also has a text encoder and a VAE."
        )
