"""R virtual streams of packed rows, each a pure function of the documents, a seed and a small cursor.

Row r of every global batch of R rows comes from virtual stream r, which reads the documents numbered r, r + R, r + 2R,
... of the training order and packs them by itself. So nothing in a row depends on which other rows are read beside it:
not how many hosts there are, not which rows they own, not how many processes prepare them.

With fewer documents than streams, several streams begin with the same one; they begin at different places in it (the
van der Corput sequence 0, 1/2, 1/4, 3/4, ... of its length), so that one long text still gives different rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmzoo.data.orders import Place, order_of
from fmzoo.data.row_iterator import Batch, example_ids
from fmzoo.errors import InputError
from fmzoo.text.packing import PACKERS, Cursor, Piece, Row, fill_row


class Encoded(NamedTuple):
    """A document's tokens, and what each weighs in the loss; None is 1 for each."""

    tokens: Sequence[int]
    weights: Sequence[float] | None = None


Encode = Callable[[Any], Encoded]


class Settings(NamedTuple):
    """What, beside documents and tokenizer, decides every batch."""

    batch_size: int  # R, rows of the global batch
    length: int  # T, tokens a row
    seed: int
    packing: str
    vocab_size: int


class RowStreams:
    """The streams of a range of rows, read in step; this is what a host, or one worker process of it, runs."""

    def __init__(self, documents: Sequence[Any], encode: Encode, rows: range, settings: Settings):
        self.documents, self.encode, self.rows, self.settings = documents, encode, rows, settings
        self.order = order_of(documents, settings.seed)
        self.batch = 0
        self._encoded: dict[Place, Encoded] = {}  # the documents that some cursor is about
        self._cursors = [self._first(row) for row in rows]

    def _first(self, row: int) -> Cursor:
        place, epoch = self.order.locate(row)
        return Cursor(0, int(self._pairs(place) * _van_der_corput(epoch)) if epoch else 0)

    def next(self) -> Batch:
        """Returns the next batch of these rows; after an InputError everything is where it was."""
        planned = [self._next_row(row, cursor) for row, cursor in zip(self.rows, self._cursors, strict=True)]
        batch = {name: np.stack([arrays[name] for arrays, _ in planned]) for name in planned[0][0]}
        batch["example_id"] = example_ids(self.batch, self.settings.batch_size, self.rows)
        self.batch, self._cursors = self.batch + 1, [cursor for _, cursor in planned]
        self._forget()
        return batch

    def _next_row(self, row: int, cursor: Cursor) -> tuple[Row, Cursor]:
        def place(i: int) -> Place:
            return self.order.locate(row + i * self.settings.batch_size)[0]

        length = self.settings.length
        pieces, cursor = PACKERS[self.settings.packing](cursor, lambda i: self._pairs(place(i)), length)
        return fill_row(
            pieces, lambda i: self._read(place(i)).tokens, length, lambda i: self._read(place(i)).weights
        ), cursor

    def _pairs(self, place: Place) -> int:
        return max(len(self._read(place).tokens) - 1, 0)

    def _read(self, place: Place) -> Encoded:
        if place not in self._encoded:
            found = self.encode(self.order.read(place))
            tokens = np.array(found.tokens, np.int64)
            if tokens.size and tokens.max() >= self.settings.vocab_size:
                raise InputError(f"token id {tokens.max()} is not under the vocab_size {self.settings.vocab_size}")
            weights = np.ones(len(tokens)) if found.weights is None else np.asarray(found.weights)
            self._encoded[place] = Encoded(tokens.astype(np.int32), weights.astype(np.float32))
        return self._encoded[place]

    def _forget(self) -> None:
        needed = set()
        for row, cursor in zip(self.rows, self._cursors, strict=True):
            documents = {cursor.document, *(piece.document for pieces in cursor.rows for piece in pieces)}
            needed |= {self.order.locate(row + i * self.settings.batch_size)[0] for i in documents}
        self._encoded = {place: found for place, found in self._encoded.items() if place in needed}

    def cursors(self) -> dict[str, list]:
        """Returns the cursor of each row, ready for JSON."""
        return {str(row): _frozen(cursor) for row, cursor in zip(self.rows, self._cursors, strict=True)}

    def resume(self, batch: int, cursors: Mapping[str, Any]) -> None:
        """Puts every row where it was after `batch` batches."""
        self._cursors = [_thawed(cursors[str(row)]) for row in self.rows]
        self.batch = batch

    def part(self, rows: range) -> "RowStreams":
        """Returns streams of some of these rows at the same place."""
        part = RowStreams(self.documents, self.encode, rows, self.settings)
        part.resume(self.batch, self.cursors())
        return part

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_encoded": {}}


def _van_der_corput(n: int) -> float:
    """The bits of n mirrored at the binary point: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    return sum((n >> bit & 1) / (2 << bit) for bit in range(n.bit_length()))


def _frozen(cursor: Cursor) -> list:
    return [cursor.document, cursor.offset, [[list(piece) for piece in row] for row in cursor.rows]]


def _thawed(value: Any) -> Cursor:
    try:
        document, offset, rows = value
        cursor = Cursor(document, offset, tuple(tuple(Piece(*piece) for piece in row) for row in rows))
        numbers = [document, offset, *(number for row in cursor.rows for piece in row for number in piece)]
    except (TypeError, ValueError):
        numbers = [-1]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise InputError(f"iterator state has the cursor {str(value)[:60]}; document, offset and open rows are needed")
    return cursor
