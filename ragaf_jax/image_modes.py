"""Converts images of Pillow's modes to grey values and to sRGB."""

import contextlib
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageCms

# Images with less contrast than this fraction of the full range are white lines without paper.
_LEAST_CONTRAST = 0.12

# Channels of grey images differ by up to this after JPEG or scanning.
_LEAST_CHROMA = 24

# Pillow's modes of more than 8 bits a sample: I, I;16, I;16B, F …
_DEEP_MODES = ("I", "F")


def to_grey(image: Image.Image) -> Image.Image:
    """8-bit grey values that show lines of any colour on their paper; see `images.read_grey`."""
    if image.mode.startswith(_DEEP_MODES):
        return Image.fromarray(_deep_to_u8(np.asarray(image)))
    if not image.has_transparency_data:
        if image.mode in ("1", "L"):
            return image.convert("L")
        return _from_colours(image.convert("RGB"))
    on_white = _from_colours(_flatten(image, "white"))
    if np.ptp(np.asarray(on_white)) > 255 * _LEAST_CONTRAST:
        return on_white
    return _from_colours(_flatten(image, "black"))


def _from_colours(image: Image.Image) -> Image.Image:
    """Grey values whose difference from the paper is the largest difference of any channel.

    Yellow on white and blue on black have little contrast in luminance. The paper's colour is the
    median; grey images are unchanged.
    """
    red, green, blue = image.split()
    chroma = [ImageChops.difference(*pair) for pair in ((red, green), (green, blue))]
    if max(int(np.asarray(x).max()) for x in chroma) <= _LEAST_CHROMA:
        return image.convert("L")
    pixels = np.asarray(image)
    rows, columns = (max(1, side // 256) for side in pixels.shape[:2])
    paper = np.median(pixels[::rows, ::columns].reshape(-1, 3), axis=0).astype(np.int16)
    furthest = np.zeros(pixels.shape[:2], np.int16)
    for channel in range(3):
        away = pixels[..., channel] - paper[channel]
        furthest = np.where(np.abs(away) > np.abs(furthest), away, furthest)
    grey = int(np.asarray(Image.fromarray(paper.astype(np.uint8)[None, None]).convert("L"))[0, 0])
    return Image.fromarray(np.clip(grey + furthest, 0, 255).astype(np.uint8))


def to_rgb(image: Image.Image) -> Image.Image:
    """Opaque 8-bit sRGB; see `images.read_rgb`."""
    if image.mode.startswith(_DEEP_MODES):
        values = np.asarray(image)
        # Integers have 16 bits unless one is larger; floats have no defined maximum.
        sixteen_bits = image.mode != "F" and values.max() <= 65535
        image = Image.fromarray(_deep_to_u8(values, 65535.0 if sixteen_bits else None))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image = _to_srgb(image, image.info.get("icc_profile"))
    if alpha is None:
        return image
    image.putalpha(alpha)
    return _flatten(image, "white")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Opaque sRGB; a profile that is damaged or for other channels is ignored."""
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            assert converted is not None  # only in-place conversion returns None
            return converted
    return image.convert("RGB")


def _deep_to_u8(values: np.ndarray, white: float | None = None) -> UInt8[np.ndarray, "h w"]:
    """Scales 16- and 32-bit samples to 255 at `white`, or at their maximum: scanners write 12 bits.

    Negative samples shift all samples to a minimum of 0.
    """
    values = np.nan_to_num(values.astype(np.float32))
    values -= min(values.min(), 0)
    return np.rint(values * (255 / (white or max(values.max(), 1e-12)))).astype(np.uint8)


def _flatten(image: Image.Image, paper: str) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("RGB")
