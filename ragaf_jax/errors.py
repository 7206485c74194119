"""The one exception that users are meant to read, and how a command ends with it."""

import errno
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

# Reasons why a place cannot be read or written that are no fault of the program.
_NO_PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
)


class UserError(Exception):
    """Something that the user can put right.

    Its message is one sentence: the thing, the value it had, the value it should have had, and
    what to do. Commands print it without a traceback and end with status 1.
    """


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses flags; what is wrong with them (an unknown config field too) ends in one sentence."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # A config file's own error comes with its traceback; the last line is what it says.
        text = str(error.args[0] if error.args else type(error).__name__)
        lines = text.strip().splitlines()
        traced = any(line.startswith("Traceback") for line in lines)
        sentence = " ".join((lines[-1] if traced else text).split())
        if isinstance(error, AttributeError | KeyError):
            sentence = f"There is no such field in the configuration: {sentence}"
        raise SystemExit(_report(f"{sentence} (--help lists the flags)")) from None


def _report(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


def run_cli(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs `main` with absl's flags parsed; a `UserError` becomes one line on stderr, status 1.

    So does a place that cannot be used; Ctrl-C ends with status 130.
    """

    def guarded(args: list[str]) -> int:
        try:
            main(args)
        except UserError as error:
            return _report(str(error))
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            place = error.filename or "the output"
            return _report(f"{place} cannot be used: {error.strerror}; choose another place.")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0

    app.run(guarded, argv=None if argv is None else list(argv), flags_parser=_parse_flags)
