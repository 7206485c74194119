"""Paths given by users: expands `~`, refuses addresses of stores and patterns, hashes files."""

import hashlib
import re
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ragaf_jax.errors import UserError

_FIELDS = (
    "stage1",
    "data.dir",
    *("init.checkpoint", "init.vae", "init.control", "init.lora", "init.tokenizer"),
    *("metrics.inception", "metrics.lpips_alex", "metrics.lpips_vgg", "metrics.clip"),
)
_PATTERN = re.compile(r"[\[\]*?]")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?")


def _refusal(path: str) -> str | None:
    """The reason to refuse a path that is the address of an object store or a server, or None."""
    if match := _URL.match(path):
        return (
            f"{match[1]}:// is not supported; give a local folder, such as one where the bucket is "
            "mounted."
        )
    return None


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def check_no_pattern(path: Path | str, name: str) -> None:
    """Refuses a folder whose absolute path contains characters of file name patterns.

    Orbax and TFDS list files by patterns that start with the folder's path. In `run[1]` they find
    nothing, in `run*` also files of `run1`.

    Raises:
      UserError: the path has one of the characters [ ] * ?.
    """
    whole = str(Path(path).absolute())
    if match := _PATTERN.search(whole):
        raise UserError(
            f"{name} is {whole}, whose {match[0]!r} would be read as a pattern; rename the folder "
            "without the characters [ ] * ?."
        )


def expand_fields(config: ConfigDict) -> None:
    """Expands `~` in all path fields of a configuration.

    Raises:
      UserError: the address of an object store or a server, or a pattern in `config.data.dir`.
    """
    for field in _FIELDS:
        *sections, last = field.split(".")
        section = config
        for name in sections:
            section = section[name]
        if refusal := _refusal(section[last]):
            raise UserError(f"config.{field} is {section[last]}: {refusal}")
        section[last] = _expanded(section[last])
    check_no_pattern(config.data.dir, "config.data.dir")


class _PathParser(flags.ArgumentParser[str]):
    """A path with `~` expanded."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if refusal := _refusal(argument):
            raise ValueError(refusal)
        return _expanded(argument)

    def flag_type(self) -> str:
        return "path"


# For `flags.DEFINE(PATH, name, default, help)`; expands `~` and refuses addresses of stores.
PATH = _PathParser()


def sha256_of(*files: Path) -> str:
    """The SHA-256 of the contents of files, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()
