"""Where in a text each token stands."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from fmzoo.text.tokenizers import Tokenizer


class Span(NamedTuple):
    """Characters ``start`` to ``end``, the last one not included."""

    start: int
    end: int

    def meets(self, other: "Span") -> bool:
        """Whether the two share a character; one without any meets the one that it lies in."""
        return self.start < other.end and (self.end > other.start or self.start == self.end == other.start)

    def shift(self, by: int) -> "Span":
        """The span in a text with ``by`` characters more before it."""
        return Span(self.start + by, self.end + by)


def encode_specials(tokenizer: Tokenizer, text: str, guard: str = "") -> tuple[list[int], list[Span]]:
    """The tokens of a text in which names of special tokens stand for them, and where each token stands.

    Args:
      tokenizer: as `fmzoo.text.Tokenizer`. One of the `tokenizers` package splits the text by its own rules unless
        there is a guard in it.
      text: what to encode.
      guard: a character that is left out, and by which a name is kept from standing for its token.
    """
    guarded = bool(guard) and guard in text
    if hasattr(tokenizer, "encode_specials") and not guarded:
        ids, places = tokenizer.encode_specials(text)
        return ids, [Span(*place) for place in places]
    ids, places, at = [], [], 0
    for piece in split_specials(text, tokenizer.specials):
        if piece in tokenizer.specials:
            ids.append(tokenizer.specials[piece])
            places.append(Span(at, at + len(piece)))
        else:
            plain, kept = _without(piece, guard) if guarded else (piece, None)
            found, spans = tokenizer.encode_with_spans(plain)
            ids += found
            places += [(Span(*span) if kept is None else _widen(span, kept)).shift(at) for span in spans]
        at += len(piece)
    return ids, places


def split_specials(text: str, specials: Mapping[str, int]) -> list[str]:
    """The text cut before and after each name of a special token, the longest name first; no piece is empty."""
    if not specials:
        return [text] if text else []
    names = "|".join(re.escape(name) for name in sorted(specials, key=len, reverse=True))
    return [piece for piece in re.split(f"({names})", text) if piece]


def _without(piece: str, guard: str) -> tuple[str, list[int]]:
    """A text without its guards, and where each character that is left stood."""
    kept = [i for i, char in enumerate(piece) if char != guard]
    return "".join(piece[i] for i in kept), kept


def _widen(span: tuple[int, int], kept: list[int]) -> Span:
    start, end = span
    if start == end:
        place = kept[start] if start < len(kept) else len(kept)
        return Span(place, place)
    return Span(kept[start], kept[end - 1] + 1)
