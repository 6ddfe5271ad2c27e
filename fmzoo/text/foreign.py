"""Calls of packages that are written in Rust or C++, whose failures on a hostile file become the one error."""

import contextlib
from collections.abc import Iterator

from fmzoo.errors import InputError

PANIC = "PanicException"  # of Rust, which is no Exception and can be imported from nowhere
LONGEST = 120  # characters kept of what a package says


@contextlib.contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Turns what a package raises in here, panics of Rust included, into an `InputError`.

    Args:
      sentence: what is wrong; the beginning of what the package says follows in brackets.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        said = " ".join((str(error) or type(error).__name__).split())[:LONGEST]
        raise InputError(f"{sentence} ({said})") from None
