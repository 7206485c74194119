"""The kinds of cached outputs of frozen networks: latents and text states."""

from ragaf_jax.errors import UserError

# The autoencoder of the image, the text encoder of the captions.
KINDS = ("latents", "text")


def cached_kinds(listed: str, where: str) -> tuple[str, ...]:
    """The kinds in a list such as "latents,text"; "" has none.

    Args:
      listed: the list.
      where: name of its flag or field, for the error.

    Raises:
      UserError: an entry that is not in `KINDS`.
    """
    kinds = tuple(kind.strip() for kind in listed.split(",") if kind.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"{where} is {listed!r}, and {kind!r} cannot be cached; give a list of "
                f"{', '.join(KINDS)}, separated by commas, or nothing."
            )
    return tuple(dict.fromkeys(kinds))
