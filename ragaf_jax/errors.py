"""`UserError`, the exception for users, and the exit of commands after it."""

import difflib
import errno
import functools
import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

# Errors of the file system that users can correct.
_FILE_ERRORS = (
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
)

_LEAST_WIDTH = 20  # columns; a terminal without a size has 0


class UserError(Exception):
    """An error that the user can correct.

    Its message is one sentence: the thing, its value, the expected value, and what to do. Commands
    print it without a traceback and exit with status 1.
    """


def notify(*sentences: str) -> None:
    """Prints `wrapped` sentences on stderr, above any progress bar."""
    from tqdm import tqdm  # importing it takes 50 ms

    for sentence in sentences:
        tqdm.write(wrapped(sentence), file=sys.stderr)
    sys.stderr.flush()


class _Notices(logging.Handler):
    """Prints log records of this project as notices, without absl's prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if _is_ours(record):
            notify(self.format(record))


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in ("ragaf_jax", "input_pipeline")


def _notify_of_logs() -> None:
    """Prints log records of this project as notices; a second call has no effect."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Notices) for handler in root.handlers):
        root.addHandler(_Notices())
        absl_logging.get_absl_handler().addFilter(lambda record: not _is_ours(record))


def wrapped(text: str) -> str:
    """Text for stderr, with lines broken between words at the terminal's width.

    Without a terminal each sentence stays on one line, for `grep`. Paths and flags are not broken,
    so that they can be copied.
    """
    if not sys.stderr.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH)
    fill = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
    return "\n".join(fill(line, width) for line in text.splitlines())


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of `known` that are similar to `name`, best first.

    Similarity is the mean over whole paths and last names. So `batchsize` is near
    `train.batch_size`, and `trian.steps` is nearer to `train.steps` than to `sample.steps`.
    """

    def similarity(other: str) -> float:
        a, b = name.lower(), other.lower()
        pairs = (a, b), (a.rpartition(".")[2], b.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs) / 2

    scored = sorted(((similarity(other), other) for other in known), key=lambda x: (-x[0], x[1]))
    return [other for score, other in scored[:3] if score > 0.7]


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses flags; exits with one sentence if flags or config fields are wrong.

    Names of flags may have dashes: --regions-only is --regions_only.
    """
    argv = [_underscored(argument) for argument in argv]
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        # An error in a config file comes with its traceback; the last line is the message.
        text = str(error.args[0] if error.args else type(error).__name__)
        lines = text.strip().splitlines()
        traced = any(line.startswith("Traceback") for line in lines)
        sentence = _wrong_field(argv, text)
        if sentence is None:
            plain = " ".join((lines[-1] if traced else text).split())
            # Configurations raise ValueError for the name after the colon of --config.
            named = traced and plain.startswith("ValueError: ")
            sentence = plain.removeprefix("ValueError: ")
            sentence += "" if named else " (--help lists the flags)"
        raise SystemExit(_report(sentence)) from None


def _underscored(argument: str) -> str:
    match = re.match(r"--?([a-z0-9]+(?:-[a-z0-9]+)+)(?==|$)", argument)
    name = match[1].replace("-", "_") if match else ""
    return f"--{name}{argument[match.end() :]}" if match and name in flags.FLAGS else argument


def _wrong_field(argv: Sequence[str], message: str) -> str | None:
    """The error in a config field of `argv`; None if absl's `message` is about something else."""
    from ml_collections.config_flags import config_flags  # not every command has a configuration

    names = [name for name in flags.FLAGS if config_flags.is_config_flag(flags.FLAGS[name])]
    for name in names:
        file = next((x.partition("=")[2] for x in argv if re.match(f"--?{name}=", x)), None)
        if file is None:
            continue
        alone = flags.FlagValues()
        config_flags.DEFINE_config_file(name, flag_values=alone, sys_argv=[])
        try:
            alone([argv[0], f"--{name}={file}"])
        except Exception:  # the error is in the file, and in the first message
            return None
        config = alone[name].value
        for argument in argv[1:]:
            match = re.fullmatch(rf"--?(?:no)?{name}\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
            if match is None:
                continue
            path, value = match.groups()
            unknown = _unknown(name, path, config)
            if unknown is not None:
                return unknown
            if value is not None and message.startswith(f"flag --{name}.{path}={value}: "):
                return _wrong_type(name, path, value, config)
    return None


def _fields(config: Any, before: str = "") -> list[str]:
    """The paths of all fields of a configuration, including those in sections."""
    paths = []
    for key in config:
        inside = config.get_ref(key).get() if config.get_type(key) is type(config) else None
        paths += [f"{before}{key}"] if inside is None else _fields(inside, f"{before}{key}.")
    return paths


def _unknown(name: str, path: str, config: Any) -> str | None:
    """An error with the nearest fields for an unknown field; None for a known one."""
    fields = _fields(config)
    if path in fields or any(field.startswith(f"{path}.") for field in fields):
        return None
    section = path.rpartition(".")[0]
    # Without a similar name, the fields of the same section are listed, or else all sections.
    siblings = [field for field in fields if section and field.startswith(f"{section}.")]
    sections = sorted({field.partition(".")[0] for field in fields})
    near = nearest(path, fields)
    listed = ", ".join(f"{name}.{field}" for field in near or siblings or sections)
    how = "the nearest are" if near[1:] else "did you mean" if near else "there are"
    return f"There is no field {name}.{path}; {how} {listed}{'?' if how == 'did you mean' else '.'}"


def _wrong_type(name: str, path: str, value: str, config: Any) -> str:
    """An error with the type and the present value of a field."""
    here: Any = config
    *sections, last = path.split(".")
    for section in sections:
        here = here[section]
    kind, now = here.get_type(last), here[last]
    if kind is type(config):
        fields = ", ".join(f"--{name}.{field}" for field in _fields(now, f"{path}."))
        return f"{name}.{path} is a section and cannot be {value!r}; give its fields: {fields}."
    expected = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}
    if now == ():
        now = f"('{value.split(',')[0]}', …)"  # an empty list shows no form
    example = "" if now is None else f", such as {now}"
    return f"{name}.{path} cannot be {value!r}: it is {expected.get(kind, kind.__name__)}{example}."


def _report(sentence: str) -> int:
    notify(f"error: {sentence}")
    return 1


def run_cli(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs `main` after parsing flags; a `UserError` becomes one line on stderr and status 1.

    So does a file or folder that cannot be used. Ctrl-C exits with status 130.
    """

    def guarded(args: list[str]) -> int:
        try:
            main(args)
        except UserError as error:
            return _report(str(error))
        except OSError as error:
            if error.errno not in _FILE_ERRORS:
                raise
            path = error.filename or "the output"
            return _report(f"{path} cannot be used: {error.strerror}; choose another path.")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0

    _notify_of_logs()
    app.run(guarded, argv=None if argv is None else list(argv), flags_parser=_parse_flags)
