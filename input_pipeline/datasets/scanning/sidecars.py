"""Reads captions from the files beside an image: kohya's text files and taggers' JSON.

    a.txt, a.caption    one caption: a sentence, or the comma-separated tags of WD14 taggers
    a.json              {"caption": "…"} of BLIP scripts and img2dataset, or a list of captions

Other tools write JSON beside images too. Such files without captions are not annotations.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from input_pipeline.datasets.scanning.caption_tables import CAPTION_COLUMNS, UTF16, clean_caption
from input_pipeline.datasets.scanning.items import Rejected

JSON = ".json"
SIDECARS = (".txt", ".caption", JSON)
# Of captions. Other text files, such as logs, can be longer; so can other tools' JSON.
MOST_BYTES = 100_000
# "generated_text" is the field of transformers' image-to-text pipeline.
_FIELDS = (*CAPTION_COLUMNS, "generated_text")


def read_sidecars(root: Path, paths: Iterable[str]) -> tuple[dict[str, None], list[Rejected]]:
    """The captions in the files beside one image, and the files that cannot be used.

    `paths` are relative to `root`. Captions have no duplicates.
    """
    captions: dict[str, None] = {}
    rejected = []
    for path in paths:
        try:
            captions |= dict.fromkeys(_read(root / path))
        except OSError as error:
            rejected.append(Rejected(path, f"cannot be read ({error.strerror})"))
        except ValueError as error:
            rejected.append(Rejected(path, str(error)))
    return captions, rejected


def _read(path: Path) -> list[str]:
    """The captions in one file; errors are those of `captions_in` and `OSError`."""
    with path.open("rb") as file:
        return captions_in(file.read(MOST_BYTES + 1), path.suffix == JSON)


def captions_in(content: bytes, is_json: bool) -> list[str]:
    """The captions in the content of a file; none only of JSON that is not an annotation.

    Raises:
      ValueError: it cannot be used; the message continues the file's name.
    """
    if content.startswith(UTF16):
        raise ValueError("is UTF-16; save it as UTF-8")
    if len(content) > MOST_BYTES:
        if is_json:
            return []
        raise ValueError(f"is longer than {MOST_BYTES:,} bytes, which is too long for a caption")
    # `clean_caption` refuses the surrogates of bytes that are not UTF-8.
    text = content.decode("utf-8-sig", errors="surrogateescape")
    if is_json:
        return _captions(text)
    if caption := clean_caption(text):
        return [caption]
    raise ValueError("is empty")


def _captions(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from None
    try:
        captions = [clean_caption(caption) for caption in _found(content)]
    except ValueError as error:
        raise ValueError(f"has a caption that {error}") from None
    return [caption for caption in captions if caption]


def _found(content: Any) -> Iterator[Any]:
    """The values that should be captions."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict):
            value: Any = next((part[name] for name in _FIELDS if part.get(name)), [])
            yield from value if isinstance(value, list) else [value]
        elif isinstance(part, str):
            yield part
