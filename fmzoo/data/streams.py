"""The iterator of packed batches: R virtual streams, the same batches on any number of hosts, resumable anywhere.

Row r of every global batch of R rows comes from virtual stream r. Stream r reads the documents numbered r, r + R,
r + 2R, ... of the training order and packs them by itself. Hosts own ranges of rows, so how many hosts there are, which
rows they own and how many processes prepare them changes nothing in any row. What a stream has read is a small cursor;
the state of an iterator is the cursors of its rows, and states of hosts can be merged and taken apart again.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fmzoo.data.mixtures import Order, order_of
from fmzoo.errors import InputError, nearest
from fmzoo.text.packing import PACKERS, Cursor, Piece, Row, fill_row
from fmzoo.text.tokenizers import Tokenizer, encode_document

Batch = dict[str, np.ndarray]
State = dict[str, Any]
EXAMPLES = 2**31  # example ids wrap here


class RowStream:
    """Virtual stream r: packed rows of the documents r, r + R, r + 2R, ..."""

    def __init__(self, row: int, num_rows: int, order: Order, tokenizer: Tokenizer, length: int, packing: str):
        self.cursor = Cursor()
        self._row, self._num_rows, self._order, self._tokenizer = row, num_rows, order, tokenizer
        self._length, self._plan = length, PACKERS[packing]
        self._tokens: dict[int, np.ndarray] = {}  # of the documents that the cursor is about

    def next_row(self, vocab_size: int) -> Row:
        """Returns the next row; an InputError for a token id of `vocab_size` or more leaves the cursor where it was."""
        pieces, cursor = self._plan(self.cursor, lambda i: max(len(self._document(i, vocab_size)) - 1, 0), self._length)
        row = fill_row(pieces, lambda i: self._document(i, vocab_size), self._length)
        self.cursor = cursor
        needed = {cursor.document, *(piece.document for open_row in cursor.rows for piece in open_row)}
        self._tokens = {i: tokens for i, tokens in self._tokens.items() if i in needed}
        return row

    def _document(self, i: int, vocab_size: int) -> np.ndarray:
        if i not in self._tokens:
            text = self._order(self._row + i * self._num_rows)
            tokens = np.array(encode_document(self._tokenizer, text), np.int64)
            if tokens.size and tokens.max() >= vocab_size:
                raise InputError(f"token id {tokens.max()} is not under the vocab_size {vocab_size} of the model")
            self._tokens[i] = tokens.astype(np.int32)
        return self._tokens[i]


class RowStreams:
    """The streams of a range of rows, read in step; this is what a worker process runs."""

    def __init__(self, documents: Sequence[str], tokenizer: Tokenizer, rows: range, settings: Mapping[str, Any]):
        self.documents, self.tokenizer, self.rows, self.settings = documents, tokenizer, rows, dict(settings)
        self.batch = 0
        self._begin()

    def _begin(self) -> None:
        wanted = self.settings
        order = order_of(self.documents, wanted["seed"])
        self._streams = [
            RowStream(row, wanted["batch_size"], order, self.tokenizer, wanted["length"], wanted["packing"])
            for row in self.rows
        ]

    def next(self) -> Batch:
        """Returns the next batch of these rows."""
        rows = [stream.next_row(self.settings["vocab_size"]) for stream in self._streams]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        examples = self.batch * self.settings["batch_size"] + np.array(self.rows, np.int64)
        self.batch += 1
        return batch | {"example_id": (examples % EXAMPLES).astype(np.int32)}

    def cursors(self) -> dict[str, list]:
        """Returns the cursor of each row, ready for JSON."""
        return {str(row): _frozen(stream.cursor) for row, stream in zip(self.rows, self._streams, strict=True)}

    def resume(self, batch: int, cursors: Mapping[str, Any]) -> None:
        """Puts every row back where it was after `batch` batches."""
        self._begin()  # without documents read ahead
        self.batch = batch
        for row, stream in zip(self.rows, self._streams, strict=True):
            stream.cursor = _thawed(cursors[str(row)])

    def part(self, rows: range) -> "RowStreams":
        """Returns streams of some of these rows at the same place."""
        part = RowStreams(self.documents, self.tokenizer, rows, self.settings)
        part.resume(self.batch, self.cursors())
        return part

    def __getstate__(self) -> tuple:
        return self.documents, self.tokenizer, self.rows, self.settings, self.batch, self.cursors()

    def __setstate__(self, state: tuple) -> None:
        self.documents, self.tokenizer, self.rows, self.settings, batch, cursors = state
        self.resume(batch, cursors)


class TextIterator(Iterator[Batch]):
    """Packed batches of this host's rows, without end.

    A batch is `inputs, targets, positions, segment_ids int32[B, T]`, `weights float32[B, T]` (see `fmzoo.text.packing`)
    and `example_id int32[B]`, the row's number in the global stream (wrapping at 2**31). B is the number of rows owned.
    """

    def __init__(
        self,
        documents: Sequence[str],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        length: int,
        rows: range | None = None,
        seed: int = 0,
        packing: str = "concatenate_and_split",
        vocab_size: int | None = None,
        workers: int = 0,
    ):
        """Starts at the first batch.

        Args:
          documents: what `source` returns, or any sequence of texts.
          tokenizer: documents are encoded when they are needed.
          batch_size: R, rows of the global batch.
          length: T, tokens a row.
          rows: the rows that this host owns; all by default.
          seed: chooses the order of the documents (`data_seed`).
          packing: `concatenate_and_split` or `first_fit`.
          vocab_size: a token id of this or more is refused; the tokenizer's own by default.
          workers: Grain processes that prepare batches ahead; 0 prepares them here. Each starts a Python of its own, so
            a script needs its `if __name__ == "__main__":`.

        Raises:
          InputError: an argument is out of range, or the documents together are shorter than one row.
        """
        rows = range(batch_size) if rows is None else rows
        _check(batch_size, length, rows, packing, workers)
        settings = {"batch_size": batch_size, "length": length, "seed": seed, "packing": packing}
        settings["vocab_size"] = tokenizer.vocab_size if vocab_size is None else vocab_size
        _check_tokens(documents, tokenizer, length)
        self._streams = RowStreams(documents, tokenizer, rows, settings)
        self._fingerprint = {**settings, "documents": len(documents), "digest": _digest(documents, tokenizer)}
        self._batch, self._cursors = 0, self._streams.cursors()
        self._num_workers, self._workers = min(workers, len(rows)), None

    @property
    def examples(self) -> int:
        """How many rows of the global stream have been given out, on all hosts together."""
        return self._batch * self._fingerprint["batch_size"]

    def __next__(self) -> Batch:
        if self._num_workers == 0:
            batch = self._streams.next()
            self._cursors = self._streams.cursors()
        else:
            batch, self._cursors = self._from_workers()
        self._batch += 1
        return batch

    def _from_workers(self) -> tuple[Batch, dict[str, list]]:
        if self._workers is None:
            from fmzoo.data.worker_processes import Workers

            self._streams.resume(self._batch, self._cursors)
            self._workers = Workers(self._streams, self._num_workers)
        try:
            return self._workers.next()
        except InputError:
            self.close()
            raise

    def get_state(self) -> State:
        """Returns what `set_state` needs to go on after the last batch given out: values that JSON can hold."""
        return {"examples": self.examples, "streams": dict(self._fingerprint), "rows": dict(self._cursors)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where a state was taken, by this or another iterator over the same documents.

        Raises:
          InputError: the state is of other streams, or lacks a row that this iterator owns.
        """
        saved = _checked(state)
        for name, mine in self._fingerprint.items():
            if saved["streams"].get(name) != mine:
                theirs = saved["streams"].get(name)
                raise InputError(f"iterator state: {name} was {theirs!r} and is now {mine!r}; the same value is needed")
        missing = [row for row in self._streams.rows if str(row) not in saved["rows"]]
        if missing:
            raise InputError(
                f"iterator state has {len(saved['rows'])} rows without row {missing[0]}; merge all hosts' states"
            )
        batch = saved["examples"] // self._fingerprint["batch_size"]
        self._streams.resume(batch, saved["rows"])
        self.close()
        self._batch, self._cursors = batch, self._streams.cursors()

    def close(self) -> None:
        """Stops the worker processes; the next batch would start them again."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def __enter__(self) -> "TextIterator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def merge_states(states: Sequence[Mapping[str, Any]]) -> State:
    """Joins the states of all hosts into one that any number of hosts can go on from.

    Raises:
      InputError: the states are not of the same streams after the same batch.
    """
    if not states:
        raise InputError("iterator states: there are none; one of each host is needed")
    checked = [_checked(state) for state in states]
    merged = {**checked[0], "rows": {}}
    for state in checked:
        for name in ("examples", "streams"):
            if state[name] != merged[name]:
                raise InputError(f"iterator states differ in {name}; states of one moment of one run are needed")
        for row, cursor in state["rows"].items():
            if merged["rows"].setdefault(row, cursor) != cursor:
                raise InputError(f"iterator states differ in row {row}; each row belongs to one host")
    merged["rows"] = dict(sorted(merged["rows"].items(), key=lambda item: int(item[0])))
    return merged


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
        raise InputError(
            f"iterator state holds the cursor {str(value)[:60]}; a document, an offset and open rows are needed"
        )
    return cursor


def _checked(state: Any) -> State:
    kinds = {"examples": int, "streams": dict, "rows": dict}
    if not isinstance(state, Mapping) or any(not isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise InputError("iterator state is damaged; examples, streams and rows are needed")
    return dict(state)


def _check(batch_size: int, length: int, rows: range, packing: str, workers: int) -> None:
    for name, value, least in [("batch_size", batch_size, 1), ("length", length, 1), ("workers", workers, 0)]:
        if value < least:
            raise InputError(f"{name} is {value}; at least {least} is needed")
    if rows.step != 1 or not 0 <= rows.start < rows.stop <= batch_size:
        raise InputError(f"rows are {rows}; a range within the {batch_size} rows of the batch is needed")
    if packing not in PACKERS:
        raise InputError(f"packing is {packing!r}; {nearest(packing, PACKERS)}")


def _check_tokens(documents: Sequence[str], tokenizer: Tokenizer, length: int) -> None:
    """Reads until there are tokens for one row, so that a corpus without them is refused at once."""
    targets = 0
    for index in range(len(documents)):
        targets += max(len(encode_document(tokenizer, documents[index])) - 1, 0)
        if targets >= length:
            return
    raise InputError(f"data has {targets} tokens to predict in all; at least one sequence of {length} is needed")


def _digest(documents: Sequence[str], tokenizer: Tokenizer) -> str:
    """Recognises documents and tokenizer by the tokens of the first and the last document."""
    ends = [encode_document(tokenizer, documents[index]) for index in (0, len(documents) - 1)]
    return hashlib.sha256(repr(ends).encode()).hexdigest()[:16]
