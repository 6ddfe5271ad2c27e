"""The iterator of packed batches, its checkpointable state, and the merging of hosts' states."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fmzoo.data.streams import Batch, RowStreams, Settings
from fmzoo.errors import InputError, nearest
from fmzoo.text.packing import PACKERS
from fmzoo.text.tokenizers import Tokenizer, encode_document

State = dict[str, Any]


class TextIterator(Iterator[Batch]):
    """Packed batches of this host's rows, without end.

    A batch is `inputs, targets, positions, segment_ids int32[B, T]`, `weights float32[B, T]` (see `fmzoo.text.packing`)
    and `example_id int32[B]`, the row's number in the global stream (wrapping at 2**31). B is the number of rows owned.
    The batches are the same however many hosts own the rows and however many workers prepare them.
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
        _check_tokens(documents, tokenizer, length)
        vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        settings = Settings(batch_size, length, seed, packing, vocab_size)
        self._streams = RowStreams(documents, tokenizer, rows, settings)
        self._identity = settings._asdict() | self._streams.order.description
        self._identity["digest"] = _digest(documents, tokenizer)
        self._num_workers = min(workers, len(rows))
        self._workers: Any = None  # processes that run ahead of self._streams, which stays at the batch last given out

    @property
    def examples(self) -> int:
        """How many rows of the global stream have been given out, on all hosts together."""
        return self._streams.batch * self._streams.settings.batch_size

    def __next__(self) -> Batch:
        return self._from_workers() if self._num_workers else self._streams.next()

    def _from_workers(self) -> Batch:
        from fmzoo.data.worker_processes import Workers

        if self._workers is None:
            self._workers = Workers(self._streams, self._num_workers)
        try:
            batch, cursors = self._workers.next()
        except InputError:
            self.close()
            raise
        self._streams.resume(self._streams.batch + 1, cursors)
        return batch

    def get_state(self) -> State:
        """Returns what `set_state` needs to go on after the last batch given out: values that JSON can hold."""
        return {"examples": self.examples, "streams": dict(self._identity), "rows": self._streams.cursors()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where a state was taken, by this or another iterator over the same documents.

        Args:
          state: from `get_state`, or of all hosts from `merge_states`; rows of other hosts are not looked at.

        Raises:
          InputError: the state is of other streams, or lacks a row that this iterator owns.
        """
        saved = _checked(state)
        for name, mine in self._identity.items():
            theirs = saved["streams"].get(name)
            if theirs != mine:
                raise InputError(f"iterator state has {name} {theirs!r}; this run's {mine!r} is needed"[:299])
        missing = [row for row in self._streams.rows if str(row) not in saved["rows"]]
        if missing:
            raise InputError(f"iterator state lacks row {missing[0]}; merge the states of all hosts")
        self._streams.resume(saved["examples"] // self._streams.settings.batch_size, saved["rows"])
        self.close()

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


def _checked(state: Any) -> State:
    kinds = {"examples": int, "streams": dict, "rows": dict}
    whole = isinstance(state, Mapping) and all(isinstance(state.get(name), kind) for name, kind in kinds.items())
    if not whole or not all(str(row).isdigit() for row in state["rows"]):
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
    """Recognises documents and tokenizer by how the first and the last document begin."""
    ends = [encode_document(tokenizer, documents[index][:1000]) for index in (0, len(documents) - 1)]
    return hashlib.sha256(repr(ends).encode()).hexdigest()[:16]
