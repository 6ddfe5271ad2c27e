"""Documents in files: `.txt`, `.jsonl`, `.jsonl.gz` and Parquet, read where they lie.

Each class is a sequence of texts that opens its file when first read, survives pickling (only the path and the offsets
travel to a worker process), and answers with an `InputError` that names the file and the place.
"""

import bisect
import functools
import gzip
import json
import re
import weakref
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from fmzoo.errors import InputError, nearest

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell one, UTF-8 cannot
LARGEST_UNPACKED = 8 * 2**30  # bytes of one .jsonl.gz in memory; more is a mistake or a bomb


class TextFile(Sequence[str]):
    """A `.txt` file is one document."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> str:
        if index:
            raise IndexError(index)
        return _utf8(_read(self.path), str(self.path))


class JsonLines(Sequence[str]):
    """A `.jsonl` file is a document a line; only where the lines begin is held in memory."""

    def __init__(self, path: epath.PathLike, field: str = "text"):
        self.path, self.field = epath.Path(path), field
        self._numbers, self._offsets = self._scan()

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        """Finds the lines that are not blank: their numbers, and where they begin and end."""
        numbers, offsets, position = [], [], 0
        with _open(self.path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    numbers.append(number)
                    offsets.append((position, position + len(line)))
                position += len(line)
        return np.array(numbers, np.int64), np.array(offsets, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> str:
        return text_of(self.line(index), self.field, self.place(index))

    def place(self, index: int) -> str:
        """The file and the line, for an error."""
        return f"{self.path} line {self._numbers[index]}"

    def line(self, index: int) -> bytes:
        """The line of a document as it stands in the file."""
        begin, end = self._offsets[index].tolist()
        self._file.seek(begin)
        return self._file.read(end - begin)

    @functools.cached_property
    def _file(self) -> BinaryIO:
        file = _open(self.path)
        weakref.finalize(self, file.close)
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_file", "_content")}


class GzippedJsonLines(JsonLines):
    """A `.jsonl.gz` file, which has no random access, is unpacked once in each process."""

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        ends = np.flatnonzero(np.frombuffer(self._content, np.uint8) == ord("\n")) + 1
        ends = np.append(ends, len(self._content)) if not len(ends) or ends[-1] < len(self._content) else ends
        begins = np.concatenate([[0], ends[:-1]])
        kept = np.array([bool(self._content[b:e].strip()) for b, e in zip(begins, ends, strict=True)], bool)
        return np.flatnonzero(kept) + 1, np.stack([begins, ends], axis=1)[kept]

    @functools.cached_property
    def _content(self) -> bytes:
        try:
            with _open(self.path) as packed, gzip.open(packed) as file:
                content = file.read(LARGEST_UNPACKED + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise InputError(f"{self.path} is not a complete gzip file") from None
        if len(content) > LARGEST_UNPACKED:
            raise InputError(f"{self.path} unpacks to more than {LARGEST_UNPACKED} bytes; split it into several files")
        return content

    def line(self, index: int) -> bytes:
        """The line of a document as it stands in the file."""
        begin, end = self._offsets[index].tolist()
        return self._content[begin:end]


class ParquetFile(Sequence[str]):
    """A Parquet file is a document a row; its one column of text is held in memory, as Arrow has it."""

    def __init__(self, path: epath.PathLike, field: str = "text"):
        self.path, self.field = epath.Path(path), field
        names, self._length = describe_parquet(self.path)
        if field not in names:
            raise InputError(f"{self.path} has no column {field!r}; {nearest(field, names)}")

    @functools.cached_property
    def _column(self) -> Any:
        import pyarrow

        column = read_parquet(self.path, self.field).column(0)
        kinds = pyarrow.types
        if not (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
            raise InputError(f"{self.path} column {self.field!r} is {str(column.type)[:40]}; a string column is needed")
        return column

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> str:
        try:
            text = self._column[index].as_py()
        except UnicodeDecodeError:
            raise InputError(f"{self.path} row {index} is not UTF-8") from None
        if text is None:
            raise InputError(f"{self.path} row {index} has no {self.field!r}; a string in every row is needed")
        return text

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_column"}


def describe_parquet(path: epath.Path) -> tuple[list[str], int]:
    """The names of a Parquet file's columns, and how many rows it has."""
    import pyarrow
    from pyarrow import parquet

    try:
        with _open(path) as file:
            described = parquet.ParquetFile(file)
            return described.schema_arrow.names, described.metadata.num_rows
    except (pyarrow.ArrowException, OSError):
        raise InputError(f"{path} is not a Parquet file") from None


def read_parquet(path: epath.Path, field: str | None = None) -> Any:
    """The table of a Parquet file: one column of it, or all."""
    import pyarrow
    from pyarrow import parquet

    try:
        with _open(path) as file:
            return parquet.read_table(file, columns=None if field is None else [field])
    except (pyarrow.ArrowException, OSError):
        what = "it" if field is None else f"its column {field!r}"
        raise InputError(f"{path} is damaged: {what} cannot be read") from None


READERS = {
    ".txt": lambda path, field: TextFile(path),
    ".jsonl": JsonLines,
    ".jsonl.gz": GzippedJsonLines,
    ".parquet": ParquetFile,
}


class Concatenated(Sequence[str]):
    """Several sequences of documents, one after the other."""

    def __init__(self, parts: Sequence[Sequence[str]]):
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]


def object_of(line: bytes, place: str, needed: str = "an object") -> dict[str, Any]:
    """Returns one JSON record; `place` says where it stands if it is not one, and `needed` what it should be."""
    content = _utf8(line, place)
    try:
        record = json.loads(content)
    except RecursionError:
        raise InputError(f"{place} is not JSON (nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is not JSON ({error.msg} at column {error.colno})") from None
    except ValueError:  # an integer of more digits than Python converts
        raise InputError(f"{place} is not JSON (a number is too long)") from None
    if not isinstance(record, dict):
        raise InputError(f"{place} is a JSON {type(record).__name__}; {needed} is needed")
    return record


def text_of(line: bytes, field: str, place: str) -> str:
    """Returns the text of one JSON record; `place` says where it stands if it is not one."""
    record = object_of(line, place, f"an object with {field!r}")
    if field not in record:
        raise InputError(f"{place} has no field {field!r}; {nearest(field, record)}"[:299])
    text = record[field]
    if not isinstance(text, str):
        raise InputError(f"{place} has a {type(text).__name__} in {field!r}; a string is needed")
    if LONE_SURROGATE.search(text):
        raise InputError(f"{place} has half a character (a lone surrogate) in {field!r}; Unicode text is needed")
    return text


def _utf8(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not UTF-8 (byte {error.start}); UTF-8 text is needed") from None


def _open(path: epath.Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from None


def _read(path: epath.Path) -> bytes:
    with _open(path) as file:
        return file.read()
