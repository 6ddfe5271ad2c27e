"""What tours share: the folder that one fills, and the console that it tells of."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from fmzoo.errors import InputError


def check_folder(out: epath.Path, contents: Sequence[str]) -> None:
    """Refuses a folder that a tour would share with something else.

    Args:
      out: of the tour.
      contents: names of all that a tour leaves there; one that was killed may leave each with a dot before, ``.tmp``
        behind.

    Raises:
      InputError: it is no folder, or holds what no tour left there.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"out {out} is a file; a new or empty folder is needed")
    allowed = {*contents, *(f".{name}.tmp" for name in contents)}
    others = {path.name for path in out.iterdir()} - allowed if out.exists() else set()
    if others:
        raise InputError(f"out {out} holds {min(others)!r}, which is not of a tour; a new or empty folder is needed")


def open_console() -> Any:
    """Prints text as it is, in lines as long as they are."""
    from rich.console import Console

    return Console(soft_wrap=True, markup=False, highlight=False)
