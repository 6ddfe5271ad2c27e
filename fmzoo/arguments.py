"""Command-line arguments into dataclasses by tyro, and each mistake into one sentence."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

import tyro

from fmzoo.errors import InputError, nearest

T = TypeVar("T")
FRAME = "│╭╮╰╯ "
PLAINER = (  # what Python and tyro say, and what a user understands
    (r"^Error parsing (--\S+): ", r"\1: "),
    (r"^Error parsing \S+: ", ""),
    (r"invalid literal for int\(\) with base 10: ('.*')", r"\1 is given and a whole number is needed"),
    (r"could not convert string to float: ('.*')", r"\1 is given and a number is needed"),
    (r"invalid choice ('.*') for argument '(--\S+)'\. Expected (one of .*?)\.?$", r"\2: \1 is given; \3 is needed"),
    (r"Missing value for argument '(\S+)'.*", r"\1 has no value; one is needed (\1=VALUE if it begins with a dash)"),
    (r"'([^']{50})[^']{8,}'", r"'\1...'"),
)  # fmt: skip


def parse(kind: type[T], arguments: Sequence[str], command: str, default: T | None = None) -> T:
    """Makes a dataclass of arguments; fields of nested dataclasses are options by their path.

    Args:
      kind: the dataclass; comments beside its fields are their help.
      arguments: without the program and the command.
      command: as the user typed it.
      default: has the values of options that are not given.

    Returns:
      The dataclass. Prints help and raises SystemExit if the arguments ask for it.

    Raises:
      InputError: an option is unknown (the nearest are named), missing, or has a value of another type or out of range.
    """
    known = set(options(kind, default))
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known | {"--help"}:
            raise InputError(f"{command} has no option {name[:60]}; {nearest(name, known)}")
    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen):
            settings = {} if default is None else {"default": default}
            value, unknown = tyro.cli(
                kind, args=arguments, prog=command, return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,),
                **settings,
            )  # fmt: skip
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(sentence(screen.getvalue(), command)) from None
    if unknown:
        raise InputError(f"{command} takes no {unknown[0][:60]!r}; see {command} --help")
    return value


def options(kind: Any, default: Any = None, prefix: str = "") -> Iterator[str]:
    """Every option of a dataclass, by its path; a dataclass that the default has None for has none."""
    for field in dataclasses.fields(kind):
        value, name = getattr(default, field.name, None), field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from options(type(value), value, prefix if _is_flat(field) else f"{prefix}{name}.")
        elif not any(dataclasses.is_dataclass(part) for part in get_args(field.type)):
            yield f"--{prefix}{name}"
            if field.type is bool:
                yield f"--{prefix}no-{name}"


def _is_flat(field: dataclasses.Field) -> bool:
    return any(getattr(note, "name", None) == "" for note in getattr(field.type, "__metadata__", ()))


def sentence(screen: str, command: str) -> str:
    """The first message of what tyro shows on a mistake, in one sentence."""
    lines = [line.strip(FRAME) for line in screen.splitlines() if line.strip()]
    body = lines[1 + _is_rule(lines[1]) :]  # below the title
    body = body[: next((i for i, line in enumerate(body) if _is_rule(line)), len(body))]
    if body[0].startswith("Missing from"):
        names = [line.split()[0] for line in body[1:] if re.match(r"--\w|[A-Z]+\b", line)]
        return f"{command} needs {' and '.join(names)}; see {command} --help"
    message = " ".join(body)
    for pattern, plain in PLAINER:
        message = re.sub(pattern, plain, message)
    return message


def _is_rule(line: str) -> bool:
    return not line.strip("-─")
