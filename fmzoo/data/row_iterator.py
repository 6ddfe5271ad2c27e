"""The iterator over R virtual streams: batches without end, its checkpointable state, and the merging of hosts' states.

What a row holds is for the streams to say (`TextIterator`, `ImageIterator`); here is what they share: prepared here or
by worker processes, stopped anywhere, gone on with by any number of hosts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fmzoo.errors import InputError

Batch = dict[str, np.ndarray]
State = dict[str, Any]
EXAMPLES = 2**31  # example ids wrap here


class Streams(Protocol):
    """The streams of a range of rows, read in step; this is what a host, or one worker process of it, runs.

    Attributes:
      rows: of the global batch.
      batch: how many batches were given out.
    """

    rows: range
    batch: int

    def next(self) -> Batch:
        """Returns the next batch of these rows; after an InputError everything is where it was."""

    def cursors(self) -> dict[str, list]:
        """Returns what each row must remember, ready for JSON; nothing if the number of the batch says it all."""

    def resume(self, batch: int, cursors: Mapping[str, Any]) -> None:
        """Puts every row where it was after `batch` batches."""

    def part(self, rows: range) -> "Streams":
        """Returns streams of some of these rows at the same place."""


class RowIterator(Iterator[Batch]):
    """Batches of this host's rows, the same however many hosts own the rows and however many workers prepare them."""

    def __init__(self, streams: Streams, batch_size: int, identity: Mapping[str, Any], workers: int):
        """Starts at the first batch.

        Args:
          streams: of this host's rows.
          batch_size: R, rows of the global batch.
          identity: what two iterators must share to give the same batches: values that JSON can hold.
          workers: Grain processes that prepare batches ahead; 0 prepares them here.
        """
        self._streams, self._batch_size, self._identity = streams, batch_size, dict(identity)
        self._num_workers = min(workers, len(streams.rows))
        self._workers: Any = None  # processes that run ahead of self._streams, which stays at the batch last given out

    @property
    def examples(self) -> int:
        """How many rows of the global stream have been given out, on all hosts together."""
        return self._streams.batch * self._batch_size

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
        """Goes to where a state was taken, by this or another iterator over the same data.

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
        missing = [row for row in self._streams.cursors() if row not in saved["rows"]]
        if missing:
            raise InputError(f"iterator state lacks row {missing[0]}; merge the states of all hosts")
        self._streams.resume(saved["examples"] // self._batch_size, saved["rows"])
        self.close()

    def close(self) -> None:
        """Stops the worker processes; the next batch would start them again."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def __enter__(self) -> "RowIterator":
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


def check_rows(batch_size: int, rows: range, workers: int) -> None:
    """Refuses rows that are no part of the batch, and counts out of range."""
    for name, value, least in [("batch_size", batch_size, 1), ("workers", workers, 0)]:
        if value < least:
            raise InputError(f"{name} is {value}; at least {least} is needed")
    if rows.step != 1 or not 0 <= rows.start < rows.stop <= batch_size:
        raise InputError(f"rows are {rows}; a range within the {batch_size} rows of the batch is needed")


def example_ids(batch: int, batch_size: int, rows: range) -> np.ndarray:
    """The numbers of rows in the global stream, ``int32[B]``."""
    return ((batch * batch_size + np.array(rows, np.int64)) % EXAMPLES).astype(np.int32)


def _checked(state: Any) -> State:
    kinds = {"examples": int, "streams": dict, "rows": dict}
    whole = isinstance(state, Mapping) and all(isinstance(state.get(name), kind) for name, kind in kinds.items())
    if not whole or not all(str(row).isdigit() for row in state["rows"]):
        raise InputError("iterator state is damaged; examples, streams and rows are needed")
    return dict(state)
