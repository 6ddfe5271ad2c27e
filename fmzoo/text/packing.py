"""Packing documents of any length into rows of one length.

A document of n tokens (its bos and eos included) is n - 1 *pairs*: read token i, predict token i + 1. Packing lays
pairs into rows, so each target stands exactly once, nothing is predicted across documents, and the eos, which has
nothing to predict, takes no place. A row is

    inputs, targets  int32[T]
    weights          float32[T]   1 where the loss counts, 0 in padding
    positions        int32[T]     0, 1, ... within each segment
    segment_ids      int32[T]     1, 2, ... within the row, 0 in padding

and a document that goes on in another row is a new segment there, since attention cannot look back.

Which pairs go into the next row is a pure function of a small `Cursor`, so that a packer can be stopped and resumed
anywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fmzoo.errors import InputError

Row = dict[str, np.ndarray]
Sizes = Callable[[int], int | None]  # pairs in a document by its number; None after the last


class Piece(NamedTuple):
    """Pairs `start` to `stop` of a document."""

    document: int
    start: int
    stop: int


Pieces = tuple[Piece, ...]


class Cursor(NamedTuple):
    """Where a packer stands: the next pair to lay, and the rows that are begun but not full."""

    document: int = 0
    offset: int = 0
    rows: tuple[Pieces, ...] = ()


def concatenate_row(cursor: Cursor, sizes: Sizes, length: int) -> tuple[Pieces, Cursor]:
    """Plans the next row of the documents laid end to end and cut every `length` pairs.

    Returns:
      The row's pieces (none when the documents are used up) and the cursor after it.
    """
    pieces, room, (document, offset, _) = [], length, cursor
    while room and (size := sizes(document)) is not None:
        taken = min(room, size - offset)
        if taken:
            pieces.append(Piece(document, offset, offset + taken))
        room, offset = room - taken, offset + taken
        if offset == size:
            document, offset = document + 1, 0
    return tuple(pieces), Cursor(document, offset)


def first_fit_row(cursor: Cursor, sizes: Sizes, length: int, open_rows: int = 16) -> tuple[Pieces, Cursor]:
    """Plans the next row of whole documents, each laid into the first open row that has room for it.

    A document longer than a row gives full rows of its own first and then a rest. When no row has room and
    `open_rows` are open, the fullest is closed; full rows are closed at once.

    Returns:
      The row's pieces (none when the documents are used up) and the cursor after it.
    """
    document, offset, rows = cursor
    while (size := sizes(document)) is not None:
        left = size - offset
        if left >= length:
            return (Piece(document, offset, offset + length),), Cursor(document, offset + length, rows)
        if left:
            index = next((i for i, row in enumerate(rows) if _filled(row) + left <= length), len(rows))
            if index == open_rows:
                return _close(Cursor(document, offset, rows), max(range(index), key=lambda i: _filled(rows[i])))
            row = (*(rows[index] if index < len(rows) else ()), Piece(document, offset, size))
            rows = (*rows[:index], row, *rows[index + 1 :])
        document, offset = document + 1, 0
        if left and _filled(row) == length:
            return _close(Cursor(document, offset, rows), index)
    return _close(Cursor(document, offset, rows), 0) if rows else ((), cursor)


def _filled(row: Pieces) -> int:
    return sum(piece.stop - piece.start for piece in row)


def _close(cursor: Cursor, index: int) -> tuple[Pieces, Cursor]:
    return cursor.rows[index], cursor._replace(rows=cursor.rows[:index] + cursor.rows[index + 1 :])


PACKERS = {"concatenate_and_split": concatenate_row, "first_fit": first_fit_row}


def fill_row(
    pieces: Pieces,
    tokens: Callable[[int], npt.ArrayLike],
    length: int,
    weights: Callable[[int], npt.ArrayLike] | None = None,
) -> Row:
    """Makes the arrays of a planned row.

    Args:
      pieces: what the row holds, at most `length` pairs.
      tokens: a document's token ids by its number, int[n].
      length: T.
      weights: what a document's tokens weigh in the loss by its number, float[n]; None is 1 for each.

    Returns:
      `inputs`, `targets`, `positions`, `segment_ids` int32[T] and `weights` float32[T].
    """
    row = {name: np.zeros(length, np.int32) for name in ("inputs", "targets", "positions", "segment_ids")}
    row["weights"] = np.zeros(length, np.float32)
    begin = 0
    for segment, (document, start, stop) in enumerate(pieces, 1):
        ids = np.asarray(tokens(document), np.int32)
        place = slice(begin, begin := begin + stop - start)
        row["inputs"][place] = ids[start:stop]
        row["targets"][place] = ids[start + 1 : stop + 1]
        row["positions"][place] = np.arange(stop - start)
        row["segment_ids"][place] = segment
        row["weights"][place] = (
            1 if weights is None else np.asarray(weights(document), np.float32)[start + 1 : stop + 1]
        )
    return row


def concatenate_and_split(documents: Sequence[npt.ArrayLike], length: int) -> Iterator[Row]:
    """Yields rows of the documents laid end to end; only the last row can have padding.

    Args:
      documents: each document's token ids, int[n], bos and eos included.
      length: T, pairs a row.
    """
    return _pack(concatenate_row, documents, length)


def first_fit(documents: Sequence[npt.ArrayLike], length: int, open_rows: int = 16) -> Iterator[Row]:
    """Yields rows of whole documents, padded where none fits; only documents longer than a row are split.

    Args:
      documents: each document's token ids, int[n], bos and eos included.
      length: T, pairs a row.
      open_rows: how many rows are kept open at a time; more waste less and shuffle less evenly.
    """
    if open_rows < 1:
        raise InputError(f"open_rows is {open_rows}; at least 1 row is needed")
    return _pack(lambda *state: first_fit_row(*state, open_rows), documents, length)


def _pack(plan: Callable, documents: Sequence[npt.ArrayLike], length: int) -> Iterator[Row]:
    if length < 1:
        raise InputError(f"length is {length}; a row of at least 1 pair is needed")

    def sizes(document: int) -> int | None:
        return max(len(documents[document]) - 1, 0) if document < len(documents) else None

    def rows() -> Iterator[Row]:
        pieces, cursor = plan(Cursor(), sizes, length)
        while pieces:
            yield fill_row(pieces, documents.__getitem__, length)
            pieces, cursor = plan(cursor, sizes, length)

    return rows()
