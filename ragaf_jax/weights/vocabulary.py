"""The tokenizers of a Stable Diffusion."""

from collections.abc import Collection

from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.locate import locate
from ragaf_jax.weights.pretrained import Pretrained


def tokenizer_of(pretrained: Pretrained, where: str) -> Tokenizer:
    """The checkpoint's own tokenizer, or the one at `where` for a single file without one.

    Raises:
      UserError: it is missing or not CLIP's.
    """
    if pretrained.tokenizer is not None:
        return Tokenizer.from_pretrained(pretrained.tokenizer)
    try:
        folder = locate(where, _tokenizer_files)
    except UserError as error:
        raise UserError(
            f"{pretrained.source} has no tokenizer, and the substitute "
            f"(config.init.tokenizer, or --tokenizer of prepare) is not available: {error}"
        ) from None
    if (folder / "tokenizer").is_dir():  # a whole checkpoint's
        folder = folder / "tokenizer"
    return Tokenizer.from_pretrained(folder, pretrained.padding)


def second_tokenizer_of(pretrained: Pretrained) -> Tokenizer | None:
    """SDXL's own second tokenizer; None: its tokens follow from the first one's.

    The vocabularies are equal, but its "!" is a special token, the padding: texts with "!" have
    other tokens than by the first one and `nets.text.sdxl.second_tokens`.

    Raises:
      UserError: it is not CLIP's.
    """
    if pretrained.tokenizer_2 is None:
        return None
    return Tokenizer.from_pretrained(pretrained.tokenizer_2)


def _tokenizer_files(names: Collection[str]) -> list[str]:
    prefixes = "vocab.", "merges.", "tokenizer", "special_tokens"
    return [name for name in names if name.startswith(prefixes)]
