"""What one rendering of a template may take, and the filters that could make a long text of a short one, bounded."""

import json
from typing import Any

import jinja2
from jinja2.filters import do_indent, do_join

MOST_TEXT, MOST_ROUNDS, MOST_WORK = 4_000_000, 50_000, 1_000_000


class Exhausted(Exception):
    """A template used up what one rendering may take."""


class Budget:
    """What one rendering has used."""

    def __init__(self) -> None:
        self._rounds = self._text = self._work = 0

    def round(self) -> None:
        """Counts a round of a loop or a call of a macro."""
        self._rounds += 1
        if self._rounds > MOST_ROUNDS:
            raise Exhausted(f"over {MOST_ROUNDS} rounds of its loops")

    def write(self, value: Any) -> Any:
        """Counts what is written, also what is written into a variable."""
        self._text += len(value) if isinstance(value, str) else len(str(self.measure(value)))
        if self._text > MOST_TEXT:
            raise Exhausted(f"over {MOST_TEXT} characters")
        return value

    def measure(self, value: Any) -> Any:
        """Gives a value back, unless it, or all that was measured so far, has grown too large."""
        left = [value]
        while left:
            part = left.pop()
            self._work += 1
            if isinstance(part, str):
                check_size(len(part))
                self._work += len(part) // 64
            elif isinstance(part, list | tuple):
                left += part
            elif isinstance(part, dict):
                left += part.keys()
                left += part.values()
            if self._work > MOST_WORK:
                raise Exhausted(f"over {MOST_WORK} steps")
        return value


def check_size(size: int) -> None:
    """Refuses a value of too many characters.

    Raises:
      Exhausted: it has more than may be written in all.
    """
    if size > MOST_TEXT:
        raise Exhausted(f"a value of over {MOST_TEXT} characters")


def replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Jinja's filter and Python's method, once the result is known to be short enough."""
    text, old, new = str(text), str(old), str(new)
    check_size(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


@jinja2.pass_eval_context
def join(context: Any, values: Any, separator: str = "", attribute: Any = None) -> str:
    """Jinja's filter, once the result is known to be short enough."""
    values = list(values)
    check_size(sum(len(str(value)) for value in values) + len(values) * len(str(separator)))
    return do_join(context, values, separator, attribute)


def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's filter, once the result is known to be short enough."""
    room = width if isinstance(width, int) else len(width)
    check_size(len(text) + (text.count("\n") + 1) * room)
    return do_indent(text, width, first, blank)


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The filter of transformers, which leaves characters as they are."""
    if not (indent is None or (isinstance(indent, int) and indent <= 16)):
        raise Exhausted(f"tojson with indent {str(indent)[:20]!r}, where at most 16 is accepted")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
