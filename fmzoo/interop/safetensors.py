"""The safetensors format: eight bytes of header length, a JSON header, and the tensors' bytes.

Read and written over any path that epath opens, one tensor at a time, so that neither a disk nor a second copy of the
weights is needed. Files are hostile until read: the header is checked whole before any of it is used.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from fmzoo.errors import InputError

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
DTYPES = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST_HEADER = 100_000_000  # bytes, the format's own limit


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file, read when ``numpy.asarray`` asks for it."""

    path: epath.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of its bytes in the file

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the tensor."""
        del copy  # reading always makes a new array
        array = self.read(lambda whole: whole)
        return array if dtype is None else array.astype(dtype)

    def read(self, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What a function makes of the tensor that only permutes, splits and cuts axes; no other bytes are read.

        Raises:
          InputError: the file cannot be read or has become shorter.
        """
        shadow = np.empty(self.shape, self.dtype)  # never touched: its views tell where their numbers lie in the file
        window = cut(shadow)
        if window.size and not np.may_share_memory(window, shadow):
            raise TypeError("only a function that makes a view can be told what to read")
        order = np.argsort([-stride for stride in window.strides], kind="stable")
        ordered = window.transpose(order)
        first = self.start + window.__array_interface__["data"][0] - shadow.__array_interface__["data"][0]
        axis, run = _innermost_run(ordered)
        starts = np.full((), first)
        for size, stride in zip(ordered.shape[:axis], ordered.strides[:axis], strict=True):
            starts = np.add.outer(starts, np.arange(size) * stride)
        found = np.empty(ordered.shape, self.dtype)
        if found.size:
            self._fill(found.reshape(-1).view(np.uint8).reshape(-1, run), starts.reshape(-1).tolist())
        return found.transpose(np.argsort(order))

    def _fill(self, runs: np.ndarray, starts: list[int]) -> None:
        """Reads runs of bytes, past any buffer: it would read on behind each of them."""
        try:
            with self.path.open("rb") as file:
                raw = getattr(file, "raw", file)
                for start, run in zip(starts, runs, strict=True):
                    raw.seek(start)
                    left = memoryview(run)
                    while left:
                        count = raw.readinto(left)
                        if not count:
                            raise InputError(f"{self.path} ended while it was read; the whole file is needed")
                        left = left[count:]
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror or type(error).__name__})") from None


def _innermost_run(window: np.ndarray) -> tuple[int, int]:
    """The axis from which on a window is dense, and how many bytes lie together there."""
    axis, run = window.ndim, window.itemsize
    while axis and (window.shape[axis - 1] == 1 or window.strides[axis - 1] == run):
        axis -= 1
        run *= window.shape[axis]
    return axis, run


def read_file(path: epath.PathLike) -> dict[str, Tensor]:
    """The tensors of a file by name; only the header is read.

    Raises:
      InputError: the file cannot be read, is cut short, or its header is not sound.
    """
    path = epath.Path(path)
    text, size = _read_header(path)
    return _parse(path, text, first=8 + len(text), size=size)


def read_metadata(path: epath.PathLike) -> dict[str, str]:
    """What a file says of itself in ``__metadata__``.

    Raises:
      InputError: as `read_file`, or it is no object of texts.
    """
    path = epath.Path(path)
    try:
        found = json.loads(_read_header(path)[0]).get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} has an unsound safetensors header ({str(error)[:80]})") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError(f"{path} has a __metadata__ in its safetensors header that is no object of texts")
    return found


def _read_header(path: epath.Path) -> tuple[bytes, int]:
    """The header's text and the size of the file."""
    try:
        size = path.stat().length
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise InputError(f"{path} is no whole safetensors file: its header of {length} bytes does not fit in")
            return file.read(length), size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from None


def _parse(path: epath.Path, text: bytes, first: int, size: int) -> dict[str, Tensor]:
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
        header.pop("__metadata__", None)
        entries = [(*_offsets(entry), name, entry) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} has an unsound safetensors header ({str(error)[:80]})") from None
    tensors, end = {}, 0
    for start, stop, name, entry in sorted(entries, key=lambda e: e[:3]):
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        if start != end or stop - start != math.prod(shape) * dtype.itemsize:
            raise InputError(f"{path} has a tensor {name[:80]!r} whose bytes {start} to {stop} do not fit its shape")
        tensors[name], end = Tensor(path, dtype, shape, first + start), stop
    if first + end != size:
        raise InputError(f"{path} has {size} bytes; its header needs {first + end}, so it is cut short or damaged")
    return tensors


def _offsets(entry: Any) -> tuple[int, int]:
    """The checked ``data_offsets``; dtype and shape are checked with them."""
    start, stop = entry["data_offsets"]
    numbers = [start, stop, *entry["shape"]]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or not isinstance(entry["shape"], list):
        raise ValueError("shapes and offsets must be whole numbers")
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"dtype {entry['dtype']!r} is unknown")
    return start, stop


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def write_file(path: epath.PathLike, tensors: Mapping[str, Any]) -> None:
    """Writes tensors by name, the widest dtype first, as the format's alignment needs.

    Args:
      path: may be remote.
      tensors: arrays, or anything with shape, dtype and nbytes that ``numpy.asarray`` makes one of; one at a time.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers 4 refuses a file without it
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        kind = NAMES[tensors[name].dtype]
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with epath.Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(memoryview(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8)))
