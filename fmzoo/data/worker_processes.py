"""Grain processes that prepare batches ahead. Imported only when there are workers, since Grain takes seconds.

Worker w of N runs the streams of the w-th part of the rows. Each of its elements carries the cursors of its rows after
that element, so that the state which belongs to a batch arrives with it, however far ahead a worker has read.
"""

import gc
import weakref
from typing import Any

import grain
import numpy as np
from absl import flags

from fmzoo.data.row_iterator import Batch, Streams

AHEAD = 2  # batches each worker prepares before they are asked for
LARGEST_COPIED = 2**30  # bytes; rows of token ids go through the pipe, since shared memory outlives a killed process


class Workers:
    """Processes over the parts of some streams' rows; `close()` ends them."""

    def __init__(self, streams: Streams, count: int):
        """Starts `count` processes, at most as many as there are rows, where the streams are now."""
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which only absl's own main parses
        bounds = [len(streams.rows) * i // count for i in range(count + 1)]
        parts = [streams.part(streams.rows[lo:hi]) for lo, hi in zip(bounds, bounds[1:], strict=False)]
        options = grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=AHEAD)
        copied = grain.experimental.DatasetOptions(min_shm_size=LARGEST_COPIED)
        dataset = grain.experimental.WithOptionsIterDataset(_Parts(parts), copied)
        self._count = count
        self._iterators = [iter(dataset.mp_prefetch(options))]
        self.close = weakref.finalize(self, _close, self._iterators)  # at the latest when Python ends

    def next(self) -> tuple[Batch, dict[str, Any]]:
        """Returns the next batch of all rows and their cursors after it."""
        parts = [next(self._iterators[0]) for _ in range(self._count)]
        batch = {name: np.concatenate([arrays[name] for arrays, _ in parts]) for name in parts[0][0]}
        return batch, {row: cursor for _, cursors in parts for row, cursor in cursors.held.items()}


def _close(iterators: list[grain.DatasetIterator]) -> None:
    """Ends the processes and lets go of Grain's iterators, whose finalisers fail once Python takes modules down."""
    iterators.pop().close()
    gc.collect()


class _Cursors:
    """One leaf to Grain, whatever it holds."""

    def __init__(self, held: dict[str, list]):
        self.held = held


class _Parts(grain.IterDataset):
    """A dataset that Grain gives to its workers a part each."""

    def __init__(self, parts: list[Streams]):
        super().__init__()
        self._parts = parts

    def set_slice(self, sl: slice, sequential_slice: bool = False) -> None:
        del sequential_slice  # a worker has one part either way
        self._parts = self._parts[sl]

    def __iter__(self) -> grain.DatasetIterator:
        return _PartIterator(self._parts[0])


class _PartIterator(grain.DatasetIterator):
    def __init__(self, streams: Streams):
        super().__init__()
        self._streams = streams

    def __next__(self) -> tuple[Batch, _Cursors]:
        return self._streams.next(), _Cursors(self._streams.cursors())

    def get_state(self) -> dict[str, Any]:
        return {"batch": self._streams.batch}  # the state that counts travels with each element

    def set_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError("workers start where their streams are")
