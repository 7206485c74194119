"""Paths that users give: `~` is expanded, and what cannot be used is refused in a sentence."""

import re
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ragaf_jax.errors import UserError

_FIELDS = (
    "stage1",
    "data.dir",
    *("init.checkpoint", "init.control", "init.lora", "init.tokenizer"),
    *("metrics.inception", "metrics.lpips_alex", "metrics.lpips_vgg", "metrics.clip"),
)
_PATTERN = re.compile(r"[\[\]*?]")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?")


def _refusal(path: str) -> str | None:
    """Why a path cannot be used: it is the address of an object store or a server."""
    if match := _URL.match(path):
        return (
            f"{match[1]}:// is not supported; give a local folder, such as one where the bucket is "
            "mounted."
        )
    return None


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def check_no_pattern(path: Path | str, name: str) -> None:
    """Refuses a folder whose absolute path is a pattern of file names.

    Orbax and TFDS look for files by patterns that begin with the folder's path: below `run[1]` they
    find nothing, below `run*` what is in `run1` too.

    Raises:
      UserError: the path has one of the characters [ ] * ?.
    """
    whole = str(Path(path).absolute())
    if match := _PATTERN.search(whole):
        raise UserError(
            f"{name} is {whole}, whose {match[0]!r} would be read as a pattern: rename the folder "
            "to one without the characters [ ] * ?."
        )


def expand_fields(config: ConfigDict) -> None:
    """Expands `~` in the fields of a configuration that may hold paths.

    Raises:
      UserError: one is the address of an object store or a server, or the data's folder is a
        pattern.
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


# For `flags.DEFINE(PATH, name, default, help)`: `~` is expanded, the address of a store refused.
PATH = _PathParser()
