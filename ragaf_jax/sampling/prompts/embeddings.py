"""Textual inversions (Gal et al. 2022): token embeddings under a name, from safetensors files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ragaf_jax.errors import UserError, nearest
from ragaf_jax.paths import sha256_of
from ragaf_jax.weights.stores import Safetensors, open_weights

_A1111 = "emb_params"  # the file's stem is the name
_SDXL = ("clip_l", "clip_g")  # an embedding's tensors for SDXL's text encoders, in their order
_UNNAMED = "*"  # the placeholder of many training scripts

# ComfyUI's form of a name, and the names that diffusers' training scripts suggest.
_EXPLICIT = re.compile(r"\bembedding:([\w.-]+)", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<[\w-]+>")


class Embedding(NamedTuple):
    """A textual inversion.

    Attributes:
      name: its placeholder in prompts; case has no effect.
      vectors: the embeddings of its tokens; for SDXL those of both text encoders, joined along d.
      path: of its file.
      sha256: of its file.
    """

    name: str
    vectors: Float[np.ndarray, "n d"]
    path: Path
    sha256: str


Embeddings = Mapping[str, Embedding]  # by name in lower case


def read_embeddings(
    paths: Iterable[str | Path], widths: Sequence[int]
) -> tuple[dict[str, Embedding], list[str]]:
    """Reads files in diffusers' or AUTOMATIC1111's layout, or of SDXL.

    Args:
      paths: `.safetensors` files, or folders of them.
      widths: of the token embeddings of each text encoder.

    Returns:
      The embeddings by name in lower case, and the reason for each file of a folder that is
      skipped, because folders often hold embeddings for several base models.

    Raises:
      UserError: a file that cannot be read or is no textual inversion, vectors of other text
        encoders or with NaN, or two files with one name.
    """
    found: dict[str, Embedding] = {}
    skipped: list[str] = []
    for given in (Path(path).expanduser() for path in paths):
        for path in _files(given):
            try:
                embeddings = _read(path, widths)
            except UserError as error:
                if path == given:
                    raise
                skipped.append(f"Skipped: {error}")
                continue
            for one in embeddings:
                if one.name.lower() in found:
                    other = found[one.name.lower()].path
                    raise UserError(
                        f"The embedding {one.name!r} is in {other} and in {path}; give one of them."
                    )
                found[one.name.lower()] = one
    return found, skipped


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"There is no embedding {path}; give a .safetensors file or a folder.")
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"The folder {path} has no .safetensors file; give one with embeddings.")
    return files


def _read(path: Path, widths: Sequence[int]) -> list[Embedding]:
    store = open_weights(path)
    names = sorted(store.shapes)
    is_xl = bool(names) and {*names} <= {*_SDXL}
    if is_xl and len(widths) == 1:
        raise UserError(
            f"The embedding {path} is for Stable Diffusion XL, whose two text encoders this model "
            "lacks; use one for Stable Diffusion 1 or 2."
        )
    if not isinstance(store, Safetensors) or any(
        len(shape) not in (1, 2) or 0 in shape for shape in store.shapes.values()
    ):
        raise UserError(
            f"{path} is no textual inversion: its tensors are {', '.join(names[:3])} …; give a "
            "file in the layout of diffusers or AUTOMATIC1111."
        )
    if not names:
        raise UserError(f"{path} has no tensors; give a file with an embedding.")
    if len(widths) > 1 and names != sorted(_SDXL):
        raise UserError(
            f"The embedding {path} has the tensors {', '.join(names[:3])}, expected "
            f"{' and '.join(_SDXL)} for the two text encoders of Stable Diffusion XL; use an "
            "embedding for this base model."
        )
    named = [(path.stem, _SDXL)] if is_xl else [(_name(path, name), (name,)) for name in names]
    sha256 = sha256_of(path)
    return [
        Embedding(name, _vectors(name, store, tensors, widths), path, sha256)
        for name, tensors in named
    ]


def _name(path: Path, tensor: str) -> str:
    return path.stem if tensor in (_A1111, _UNNAMED) else tensor.strip()


def _vectors(
    name: str, store: Safetensors, tensors: Sequence[str], widths: Sequence[int]
) -> Float[np.ndarray, "n d"]:
    """The vectors of an embedding, which has a tensor for each text encoder."""
    parts = [np.atleast_2d(store.read(tensor)).astype(np.float32) for tensor in tensors]
    for part, width in zip(parts, widths, strict=True):
        if part.shape[1] != width:
            raise UserError(
                f"The embedding {name!r} in {store.source} has width {part.shape[1]} and the text "
                f"encoder {width}; use an embedding for this base model."
            )
    if len({len(part) for part in parts}) > 1:
        raise UserError(
            f"The embedding {name!r} in {store.source} has "
            f"{' and '.join(str(len(part)) for part in parts)} vectors for the text encoders, "
            "expected as many for each; download it again."
        )
    vectors = np.concatenate(parts, axis=1)
    if not np.isfinite(vectors).all():
        raise UserError(
            f"The embedding {name!r} in {store.source} has NaN or infinite values; download it "
            "again."
        )
    return vectors


def split(text: str, embeddings: Embeddings) -> list[str | Embedding]:
    """A text, split at the names of embeddings, which may follow "embedding:".

    Raises:
      UserError: "embedding:" with another name.
    """
    parts: list[str | Embedding] = [text]
    if embeddings:
        # Longer names first, so that "cat-toy" is not read as "cat".
        names = "|".join(re.escape(name) for name in sorted(embeddings, key=len, reverse=True))
        pattern = re.compile(rf"(?<!\w)(?:embedding:)?({names})(?!\w)", re.IGNORECASE)
        pieces = pattern.split(text)
        parts = [embeddings[x.lower()] if i % 2 else x for i, x in enumerate(pieces)]
    for part in parts:
        if isinstance(part, str) and (match := _EXPLICIT.search(part)):
            near = nearest(match[1].lower(), list(embeddings))
            known = ", ".join(one.name for one in embeddings.values()) or "none is loaded"
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"There is no embedding {match[1]!r}; {meant}Known: {known}. Give its file by "
                "--embedding."
            )
    return parts


def unknown_placeholders(text: str) -> list[str]:
    """Parts of a text without names of embeddings that look like such a name: <cat-toy>."""
    return _PLACEHOLDER.findall(text)
