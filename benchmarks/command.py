"""Reports errors of a benchmark's command."""

from collections.abc import Callable

from ragaf_jax.errors import UserError


def end_with_sentence(main: Callable[[], None]) -> None:
    """Runs a benchmark; a UserError ends it with one sentence and status 1."""
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
