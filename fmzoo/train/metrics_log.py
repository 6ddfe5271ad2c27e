"""``metrics.jsonl``: a row a step, on disk before the checkpoint of that step, each step once."""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from fmzoo.train.locations import is_local, locate


class MetricsLog(contextlib.AbstractContextManager):
    """Rows of a run. They hold nothing that depends on the clock, so a resumed run writes the same bytes.

    Of several processes the first writes them; on the others all of this does nothing. As a context it flushes at the
    end.
    """

    def __init__(self, path: epath.PathLike):
        """Opens a log, whether it is there or not."""
        self.path = locate(path)
        self._rows: list[str] = []
        self._writes = jax.process_index() == 0

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a row; `flush` puts it on disk. Numbers that JSON lacks become the strings nan, inf and -inf."""
        if self._writes:
            named = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
            self._rows.append(json.dumps({"step": step} | named) + "\n")

    def flush(self) -> None:
        """Returns when every row is on disk."""
        if not self._rows:
            return
        text, self._rows = "".join(self._rows), []
        if is_local(self.path):
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        else:  # object stores cannot append
            self.path.write_text((self.path.read_text() if self.path.exists() else "") + text)

    def cut(self, step: int) -> None:
        """Drops the rows after a step, and what a kill left half written."""
        if not self._writes or not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = itertools.takewhile(lambda line: (_read(line) or {"step": math.inf})["step"] <= step, lines)
        replace_text(self.path, "".join(kept))

    def __exit__(self, *_: object) -> None:
        self.flush()

    def read(self) -> list[dict[str, Any]]:
        """The rows on disk."""
        return read_rows(self.path)


def read_rows(path: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a log, up to the first that is not whole; none if it is not there."""
    path = locate(path)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return list(itertools.takewhile(bool, map(_read, lines)))


def _read(line: str) -> dict[str, Any] | None:
    """A row, or None if its end or its middle was never written."""
    try:
        return json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None


def values_of(metrics: dict[str, float], name: str) -> list[float]:
    """The values of a metric for every state of a run: those called ``name`` or ``.../name``."""
    return [value for key, value in metrics.items() if key.rpartition("/")[2] == name]


def closing_mean(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, int]:
    """The mean of a metric over the last twentieth of the rows, and over how many: what is not finite is left out.

    It is nan where nothing is left.
    """
    last = [row[name] for row in rows[-max(len(rows) // 20, 1) :]]
    finite = [value for value in last if not isinstance(value, str)]
    return (sum(finite) / len(finite) if finite else math.nan), len(finite)


def replace_text(path: epath.PathLike, text: str) -> None:
    """Writes a text file, complete or not at all."""
    path = locate(path)
    beside = path.parent / f".{path.name}.tmp"
    try:
        beside.write_text(text)
        beside.replace(path)
    finally:
        if beside.exists():
            beside.unlink()
