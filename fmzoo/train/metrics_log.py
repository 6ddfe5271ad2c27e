"""``metrics.jsonl``: a row a step, on disk before the checkpoint of that step, each step once."""

import json
import math
import os
from typing import Any

from etils import epath

from fmzoo.train.locations import is_local, locate


class MetricsLog:
    """Rows of a run. They hold nothing that depends on the clock, so a resumed run writes the same bytes."""

    def __init__(self, path: epath.PathLike):
        """Opens a log, whether it is there or not."""
        self.path = locate(path)
        self._rows: list[str] = []

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a row; `flush` puts it on disk. Numbers that JSON lacks become the strings nan, inf and -inf."""
        row = {"step": step} | {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._rows.append(json.dumps(row) + "\n")

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
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
            kept.append(line)
        replace_text(self.path, "".join(kept))

    def read(self) -> list[dict[str, Any]]:
        """The rows on disk."""
        return read_rows(self.path)


def read_rows(path: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none if it is not there."""
    path = epath.Path(path)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def replace_text(path: epath.PathLike, text: str) -> None:
    """Writes a text file, complete or not at all."""
    path = epath.Path(path)
    beside = path.parent / f".{path.name}.tmp"
    try:
        beside.write_text(text)
        beside.replace(path)
    finally:
        if beside.exists():
            beside.unlink()
