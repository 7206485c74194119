"""Outputs of frozen networks that can be computed once and stored: latents and text states."""

from ragaf_jax.errors import UserError

# The autoencoder of the image, the text encoder of the captions.
KINDS = ("latents", "text")


def cached_kinds(listed: str, where: str) -> tuple[str, ...]:
    """Those of `KINDS` that a list such as "latents,text" names, "" none.

    Args:
      listed: the list.
      where: the name of the flag or field that it is the value of.

    Raises:
      UserError: another word is among them.
    """
    kinds = tuple(kind.strip() for kind in listed.split(",") if kind.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"{where} is {listed!r}, and {kind!r} cannot be cached; give some of "
                f"{', '.join(KINDS)}, with commas between them, or nothing."
            )
    return tuple(dict.fromkeys(kinds))
