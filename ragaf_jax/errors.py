"""`UserError`, the exception for users, and how commands exit with it."""

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


_LEAST_WIDTH = 20  # columns; a terminal without a size has 0


class UserError(Exception):
    """Something that the user can put right.

    Its message is one sentence: the thing, the value it had, the value it should have had, and
    what to do. Commands print it without a traceback and end with status 1.
    """


def notify(sentence: str) -> None:
    """Prints a sentence on stderr, `wrapped`, above any progress bar."""
    from tqdm import tqdm  # importing it takes 50 ms

    tqdm.write(wrapped(sentence), file=sys.stderr)
    sys.stderr.flush()


class _Notices(logging.Handler):
    """Prints the records of this project's loggers as notices, without absl's prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if _is_ours(record):
            notify(self.format(record))


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in ("ragaf_jax", "input_pipeline")


def _not_ours(record: logging.LogRecord) -> bool:
    return not _is_ours(record)


def _notify_of_logs() -> None:
    """Makes notices of what this project logs; a second call changes nothing."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Notices) for handler in root.handlers):
        root.addHandler(_Notices())
        absl_logging.get_absl_handler().addFilter(_not_ours)


def wrapped(text: str) -> str:
    """Text for stderr, its lines broken between words at the terminal's width.

    Where stderr is no terminal a sentence stays one line, which `grep` finds whole. Paths and flags
    are never broken, so that they can be copied.
    """
    if not sys.stderr.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH)
    fill = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
    return "\n".join(fill(line, width) for line in text.splitlines())


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of `known` that look like `name`, best first.

    Names of fields count by their whole path and by its end, so that `batchsize` is near to
    `train.batch_size`, and `trian.steps` nearer to `train.steps` than to `sample.steps`.
    """

    def likeness(other: str) -> float:
        a, b = name.lower(), other.lower()
        pairs = (a, b), (a.rpartition(".")[2], b.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs) / 2

    scored = sorted(((likeness(other), other) for other in known), key=lambda x: (-x[0], x[1]))
    return [other for score, other in scored[:3] if score > 0.7]


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses flags; what is wrong with them (an unknown config field too) ends in one sentence.

    A flag's name may be written with dashes: --regions-only is --regions_only.
    """
    argv = [_underscored(argument) for argument in argv]
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        # A config file's own error comes with its traceback; the last line is what it says.
        text = str(error.args[0] if error.args else type(error).__name__)
        lines = text.strip().splitlines()
        traced = any(line.startswith("Traceback") for line in lines)
        sentence = _wrong_field(argv, text)
        if sentence is None:
            plain = " ".join((lines[-1] if traced else text).split())
            # A configuration raises ValueError of the name behind its colon.
            named = traced and plain.startswith("ValueError: ")
            sentence = plain.removeprefix("ValueError: ")
            sentence += "" if named else " (--help lists the flags)"
        raise SystemExit(_report(sentence)) from None


def _underscored(argument: str) -> str:
    match = re.match(r"--?([a-z0-9]+(?:-[a-z0-9]+)+)(?==|$)", argument)
    name = match[1].replace("-", "_") if match else ""
    return f"--{name}{argument[match.end() :]}" if match and name in flags.FLAGS else argument


def _wrong_field(argv: Sequence[str], said: str) -> str | None:
    """What is wrong with a field of a configuration in `argv`; None where it is something else.

    Args:
      argv: the command line.
      said: absl's or ml_collections' message.
    """
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
        except Exception:  # whatever is wrong with the file is told by the first message
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
            if value is not None and said.startswith(f"flag --{name}.{path}={value}: "):
                return _wrong_type(name, path, value, config)
    return None


def _fields(config: Any, before: str = "") -> list[str]:
    """The paths of a configuration's fields, of those in its sections too."""
    paths = []
    for key in config:
        inside = config.get_ref(key).get() if config.get_type(key) is type(config) else None
        paths += [f"{before}{key}"] if inside is None else _fields(inside, f"{before}{key}.")
    return paths


def _unknown(name: str, path: str, config: Any) -> str | None:
    """That a configuration has no such field, and which come near; None where it has it."""
    fields = _fields(config)
    if path in fields or any(field.startswith(f"{path}.") for field in fields):
        return None
    section = path.rpartition(".")[0]
    # Nothing looks like it: what there is beside it, or else the sections.
    siblings = [field for field in fields if section and field.startswith(f"{section}.")]
    sections = sorted({field.partition(".")[0] for field in fields})
    near = nearest(path, fields)
    listed = ", ".join(f"{name}.{field}" for field in near or siblings or sections)
    how = "the nearest are" if near[1:] else "did you mean" if near else "there are"
    return f"There is no field {name}.{path}; {how} {listed}{'?' if how == 'did you mean' else '.'}"


def _wrong_type(name: str, path: str, value: str, config: Any) -> str:
    """That a field cannot have such a value, and what it has."""
    here: Any = config
    *sections, last = path.split(".")
    for section in sections:
        here = here[section]
    kind, now = here.get_type(last), here[last]
    if kind is type(config):
        fields = ", ".join(f"--{name}.{field}" for field in _fields(now, f"{path}."))
        return f"{name}.{path} is a section and cannot be {value!r}; give its fields: {fields}."
    expected = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}
    example = "" if now is None else f", such as {now}"
    return f"{name}.{path} cannot be {value!r}: it is {expected.get(kind, kind.__name__)}{example}."


def _report(sentence: str) -> int:
    notify(f"error: {sentence}")
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

    _notify_of_logs()
    app.run(guarded, argv=None if argv is None else list(argv), flags_parser=_parse_flags)
