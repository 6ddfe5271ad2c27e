"""The one error that a user can cause, and the shape check of the public edge."""

from typing import Any


class InputError(ValueError):
    """A mistake in what the user gave: one sentence with the field, its value, and what would be accepted.

    The command line prints the sentence to standard error and exits with status 2.
    """


def require(name: str, array: Any, shape: str, sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Checks that an array's shape fits letters or numbers such as ``"B T"`` and returns what each letter stands for.

    Args:
      name: what the user calls the array.
      array: anything with a ``shape``.
      shape: one word a dimension: a letter binds a size, a number demands it; a leading ``...`` allows more.
      sizes: letters bound by earlier calls; a letter must have the same size in all of them.

    Returns:
      The sizes with this array's letters added.

    Raises:
      InputError: the shape does not fit.
    """
    words, actual, bound = shape.split(), tuple(array.shape), dict(sizes or {})
    if words[:1] == ["..."]:
        words = words[1:]
        actual = actual[len(actual) - len(words) :] if len(actual) >= len(words) else actual
    fits = len(words) == len(actual)
    for word, size in zip(words, actual, strict=False):
        fits &= size == (int(word) if word.isdigit() else bound.setdefault(word, size))
    if not fits:
        known = {w: (sizes or {}).get(w) for w in words if (sizes or {}).get(w) is not None}
        where = f" with {', '.join(f'{k}={v}' for k, v in known.items())}" if known else ""
        raise InputError(f"{name} has shape {tuple(array.shape)}; [{shape}]{where} is needed")
    return bound


def nearest(word: str, options: Any) -> str:
    """Says what was meant: the three options nearest to a mistyped word, or the first few."""
    import difflib

    options = sorted(map(str, options))
    close = difflib.get_close_matches(word, options, n=3, cutoff=0.5) or options[:6]
    return "the nearest are " + ", ".join(close) if close else "there are none"
