"""Records from files and data sets: JSON lines, Parquet and TFDS, read where they lie, in any layout that is known."""

import bisect
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from fmzoo.data.folders import any_of, files_of_split
from fmzoo.data.record_formats import FORMATS, guess_format
from fmzoo.data.records import Record
from fmzoo.data.text_files import GzippedJsonLines, JsonLines, describe_parquet, object_of, read_parquet
from fmzoo.errors import InputError, nearest

CHECKED = 1000  # records that are read when a source is opened
Fields = dict[str, Any]


class JsonObjects(Sequence[Fields]):
    """The objects of a `.jsonl` or `.jsonl.gz` file."""

    def __init__(self, path: epath.PathLike):
        self._lines = (GzippedJsonLines if str(path).endswith(".gz") else JsonLines)(path)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Fields:
        return object_of(self._lines.line(index), self.place(index))

    def place(self, index: int) -> str:
        """The file and the line."""
        return self._lines.place(index)


class ParquetObjects(Sequence[Fields]):
    """The rows of a Parquet file; it is held in memory, as Arrow has it."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        _, self._length = describe_parquet(self.path)

    @functools.cached_property
    def _table(self) -> Any:
        return read_parquet(self.path)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Fields:
        try:
            return self._table.slice(range(len(self))[index], 1).to_pylist()[0]
        except UnicodeDecodeError:
            raise InputError(f"{self.place(index)} is not UTF-8; UTF-8 text is needed") from None

    def place(self, index: int) -> str:
        """The file and the row."""
        return f"{self.path} row {index}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_table"}


class TfdsObjects(Sequence[Fields]):
    """The examples of a split of a data set of TensorFlow Datasets."""

    def __init__(self, name: str, split: str):
        from fmzoo.data.tfds_documents import prepared

        self.name, self.split = name, split
        prepared(name)

    @functools.cached_property
    def _source(self) -> Any:
        from fmzoo.data.tfds_documents import open_split, prepared

        return open_split(prepared(self.name), self.name, self.split)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Fields:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return _plain(self._source[index], self.place(index))

    def place(self, index: int) -> str:
        """The data set and the example."""
        return f"{self.name} example {index}"

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "split": self.split}


READERS = {".jsonl": JsonObjects, ".jsonl.gz": JsonObjects, ".parquet": ParquetObjects}


class Records(Sequence[Record]):
    """Records of one layout from several sources, one source after the other.

    Attributes:
      format: the layout, a name in `fmzoo.data.record_formats.FORMATS`.
    """

    def __init__(self, parts: Sequence[Any], format: str):
        self.parts, self.format = list(parts), format
        self._ends = np.cumsum([len(part) for part in self.parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        within = index - (self._ends[part - 1] if part else 0)
        return FORMATS[self.format][1](self.parts[part][within], self.parts[part].place(within))


def records(name: epath.PathLike, split: str = "train", format: str | None = None) -> Records:
    """Returns the records of a data set: a sequence, read when asked for.

    Args:
      name: a `.jsonl`, `.jsonl.gz` or `.parquet` file, a folder with such files (whose splits are found as in
        `source`), or a data set of TensorFlow Datasets as `tfds:NAME` or `NAME`.
      split: `train`, `validation`, `test`, `all`, or what else the data set has.
      format: a name in `fmzoo.data.record_formats.FORMATS`; None finds out from the first record.

    Raises:
      InputError: there is no such source, split or layout, it is empty, or a record is not as its layout wants it. The
        first 1,000 are read at once; what comes later is found when it is read.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"record format is {format!r}; {nearest(format, FORMATS)}")
    name = str(name)
    parts = [part for part in _open(name, split) if len(part)]
    if not parts:
        raise InputError(f"data {name[:200]} holds no record; at least one is needed")
    found = Records(parts, format or guess_format(parts[0][0], parts[0].place(0)))
    for index in range(min(len(found), CHECKED)):
        found[index]
    return found


def _open(name: str, split: str) -> list[Any]:
    path = epath.Path(name)
    if not name.startswith("tfds:") and path.exists():
        files = files_of_split(path, split, tuple(READERS))
        return [READERS[".parquet" if file.name.endswith(".parquet") else ".jsonl"](file) for file in files]
    from fmzoo.data.tfds_documents import is_known

    plain = name.removeprefix("tfds:")
    if not name.startswith("tfds:") and not is_known(plain):
        raise InputError(f"data {name[:100]!r} does not exist; a {any_of(tuple(READERS))} file or a folder is needed")
    return [TfdsObjects(plain, split)]


def _plain(value: Any, place: str) -> Any:
    """Texts, numbers, lists and dicts in place of what TFDS gives; a sequence of features becomes a list of dicts."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InputError(f"{place} is not UTF-8; UTF-8 text is needed") from None
    if isinstance(value, Mapping):
        found = {name: _plain(part, place) for name, part in value.items()}
        return {name: _rows(part) for name, part in found.items()}
    if isinstance(value, np.ndarray):
        return [_plain(part, place) for part in value.tolist()] if value.ndim else _plain(value.item(), place)
    if isinstance(value, list | tuple):
        return [_plain(part, place) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _rows(value: Any) -> Any:
    """``{"role": [...], "content": [...]}`` as a list of dicts; anything else as it is."""
    columns = list(value.values()) if isinstance(value, dict) else []
    if not columns or not all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
        return value
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
