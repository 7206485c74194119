"""The tokenizer of a Stable Diffusion."""

from collections.abc import Collection

from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.locate import locate
from ragaf_jax.weights.pretrained import Pretrained


def tokenizer_of(pretrained: Pretrained, where: str) -> Tokenizer:
    """The checkpoint's own, or for a single file, which has none, the one that lies `where`.

    Raises:
      UserError: it is not there or not CLIP's.
    """
    if pretrained.tokenizer is not None:
        return Tokenizer.from_pretrained(pretrained.tokenizer)
    try:
        folder = locate(where, _tokenizer_files)
    except UserError as error:
        raise UserError(
            f"{pretrained.source} carries no tokenizer, and the one to stand in for it "
            "(config.init.tokenizer, or --tokenizer where data are prepared) is not to be had: "
            f"{error}"
        ) from None
    if (folder / "tokenizer").is_dir():  # a whole checkpoint's
        folder = folder / "tokenizer"
    return Tokenizer.from_pretrained(folder, pretrained.padding)


def _tokenizer_files(names: Collection[str]) -> list[str]:
    return [
        name
        for name in names
        if name.startswith(("vocab.", "merges.", "tokenizer", "special_tokens"))
    ]
