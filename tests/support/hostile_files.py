"""Damaged, empty and unusual image files for the command and the page."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def hostile_files(folder: Path) -> dict[str, Path]:
    """Writes them; some can be read all the same."""
    drawing = np.full((96, 96), 255, np.uint8)
    cv2.circle(drawing, (48, 48), 30, 0, 3)
    picture = Image.fromarray(drawing)
    picture.save(folder / "whole.png")
    picture.save(folder / "whole.jpg")
    png, jpeg = (folder / "whole.png").read_bytes(), (folder / "whole.jpg").read_bytes()
    contents = {
        "empty.png": b"",
        "text.png": b"a drawing of a house",
        "zeros.png": bytes(4096),
        "noise.jpg": np.random.default_rng(0).bytes(4096),
        "truncated.png": png[: len(png) // 2],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header.png": png[:33],
        "checksum.png": png[:40] + bytes([png[40] ^ 255]) + png[41:],
        "no_size.png": _header(0, 0),
        "bomb.png": _header(60_000, 60_000),
        "strip.png": _header(2**31 - 1, 1),
        "page.html": b"<html><img src=x onerror=alert(1)></html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L9 9"/></svg>',
        "document.pdf": b"%PDF-1.4\n%%EOF",
        "pickle.png": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "jpeg_called.png": jpeg,
        "no_suffix": png,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    grey = np.asarray(picture)
    pictures = {
        "pixel.png": np.zeros((1, 1), np.uint8),
        "line.png": np.zeros((1, 4000), np.uint8),
        "white.png": np.full_like(grey, 255),
        "black.png": np.zeros_like(grey),
        "deep.png": grey.astype(np.uint16) * 257,
        "clear.png": np.zeros((96, 96, 4), np.uint8),
        "large.png": np.kron(grey, np.ones((40, 40), np.uint8)),
        "speckled.png": np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / name)
    picture.convert("1").save(folder / "bits.png")
    picture.convert("P").save(folder / "palette.gif")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((64, 64), np.nan, np.float32)).save(folder / "nan.tiff")
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    return {path.name: path for path in sorted(folder.iterdir())}


def _header(width: int, height: int) -> bytes:
    """A grey PNG that claims a size and has no pixels to speak of."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = chunk(b"IHDR", size), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
