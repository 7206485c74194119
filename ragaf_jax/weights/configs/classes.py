"""Detects folders of another diffusers class than expected, for errors.

`source` is the folder or hub id.
"""

from collections.abc import Collection

from ragaf_jax.errors import UserError
from ragaf_jax.weights.configs.fields import Json, shown
from ragaf_jax.weights.configs.kinds import CONTROL, INSTEAD, WHOLE, check_unet

# Pipeline classes of diffusers' model_index.json that can have the networks of a Stable Diffusion
# 1, 2 or XL, and differ in sampling. Their networks are still checked, because an inpainting UNet
# or a latent consistency model has other inputs. Without a class, or with the base class, only the
# networks show the kind. Other classes are refused.
_SD = "StableDiffusion"
_XL = f"{_SD}XL"
_PIPELINES = {
    "",
    "DiffusionPipeline",
    *(f"{_SD}{task}Pipeline" for task in ("", "Img2Img", "Inpaint")),
    *(f"{_SD}ControlNet{task}Pipeline" for task in ("", "Img2Img", "Inpaint")),
    *(f"{_SD}PAG{task}Pipeline" for task in ("", "Img2Img", "Inpaint")),
    *(f"{_SD}ControlNetPAG{task}Pipeline" for task in ("", "Inpaint")),
    *(f"{_SD}{way}Pipeline" for way in ("Adapter", "AttendAndExcite", "DiffEdit", "KDiffusion")),
    *(f"{_SD}{way}Pipeline" for way in ("ModelEditing", "Panorama", "Paradigms", "SAG")),
    f"{_SD}InpaintPipelineLegacy",
    f"{_SD}PipelineSafe",
    f"{_SD}Pix2PixZeroPipeline",
    f"Semantic{_SD}Pipeline",
    "CycleDiffusionPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
}
_XL_PIPELINES = {
    *(f"{_XL}{task}Pipeline" for task in ("", "Img2Img", "Inpaint", "Adapter")),
    *(f"{_XL}ControlNet{task}Pipeline" for task in ("", "Img2Img", "Inpaint")),
    *(f"{_XL}PAG{task}Pipeline" for task in ("", "Img2Img", "Inpaint")),
    *(f"{_XL}ControlNetPAG{task}Pipeline" for task in ("", "Img2Img")),
}
# Network classes of config.json.
_ALONE = {
    "UNet2DConditionModel": "a UNet",
    "AutoencoderKL": "a VAE",
    "CLIPTextModel": "a text encoder",
    "CLIPTextModelWithProjection": "a text encoder",
    "ControlNetModel": CONTROL,
}


def check_index(index: Json, source: str) -> None:
    """Raises UserError if the pipeline's class in a model_index.json has other networks."""
    if _class(index).removeprefix("Flax") not in _PIPELINES | _XL_PIPELINES:
        raise UserError(
            f"{source} is {_named(index)}, as _class_name in its model_index.json shows, expected "
            "a Stable Diffusion 1, 2 or XL (StableDiffusionPipeline); give one of those."
        )


def check_no_pipeline(index: Json, names: Collection[str], source: str) -> None:
    """Raises UserError for a whole pipeline, with files of these `names`, in place of a ControlNet.

    `index` is its model_index.json; empty if there is none.
    """
    name = _class(index).removeprefix("Flax")
    if name not in _PIPELINES:
        raise UserError(
            f"{source} is {_named(index)}, as its model_index.json shows, expected a ControlNet; "
            "give one of Stable Diffusion 1, 2 or XL."
        )
    if name or any(part.startswith("unet/") for part in names):
        raise UserError(
            f"{source} is {WHOLE}, expected a ControlNet; {INSTEAD[WHOLE]}, and give a "
            "ControlNet's own folder here."
        )


def check_alone(config: Json, source: str) -> None:
    """Raises UserError, which names the network with this config.json, in place of a pipeline."""
    name = _class(config)
    if not name and isinstance(found := config.get("architectures"), list) and found:
        name = str(found[0])
    if "UNet" in name:
        check_unet(config, source)
    kind = _ALONE.get(name.removeprefix("Flax"))
    if kind == CONTROL:
        raise UserError(
            f"{source} is {CONTROL}, expected a whole Stable Diffusion 1, 2 or XL; "
            f"{INSTEAD[CONTROL]}."
        )
    what = kind or f"one network ({shown(name)})"
    raise UserError(
        f"{source} is {what} alone, expected a whole Stable Diffusion 1, 2 or XL; give the folder "
        "above it, with unet/, vae/, text_encoder/ and scheduler/."
    )


def _class(config: Json) -> str:
    """The class in a JSON file of diffusers, or ""; the last in the list of a custom class."""
    found = config.get("_class_name")
    found = found[-1] if isinstance(found, list) and found else found
    return found if isinstance(found, str) else ""


def _named(index: Json) -> str:
    name = shown(_class(index))[1:-1]
    return f"{'an' if name.startswith(('A', 'E', 'I', 'O', 'UnC')) else 'a'} {name}"
