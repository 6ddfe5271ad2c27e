"""The GGUF format, versions 2 and 3: typed metadata, a table of tensors, and the tensors' blocks.

Read and written over any path that epath opens, one tensor at a time. What a block of numbers means is left to the
`gguf` package, which is of those who define the format; the header is read here, since that package trusts its counts.
Files are hostile until read: no count is believed that the bytes behind it cannot fill.
"""

import dataclasses
import functools
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from etils import epath

from fmzoo.errors import InputError

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", None, None, "<u8", "<i8", "<f8")))
BOOL, STRING, ARRAY = 7, 8, 9
ENCODINGS = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS",
)  # fmt: skip
ALIGNMENT = 32
LARGEST_HEADER = 64 * 2**20  # bytes; vocabularies of 262,144 tokens take about 16 MB
MOST_DIMENSIONS = 4
MOST_ENTRIES = 2**21  # of an array or a table
PIECE = 2**20  # bytes read at a time


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file, read and dequantised to float32 when ``numpy.asarray`` asks for it."""

    path: epath.Path
    encoding: str
    shape: tuple[int, ...]
    start: int  # of its bytes in the file

    dtype = np.dtype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the tensor."""
        del copy  # reading always makes a new array
        from gguf import GGMLQuantizationType, dequantize

        count = byte_count(self.encoding, self.shape)
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                content = file.read(count)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror or type(error).__name__})") from None
        if len(content) != count:
            raise InputError(f"{self.path} ended while it was read; the whole file is needed")
        blocks = np.frombuffer(content, np.uint8).reshape(*self.shape[:-1], -1)
        with np.errstate(all="ignore"):  # a damaged scale may be infinite or no number
            array = dequantize(blocks, GGMLQuantizationType[self.encoding]).reshape(self.shape)
        return array if dtype is None else array.astype(dtype)


class Contents(NamedTuple):
    """What a file holds: metadata by key (numbers, texts, lists of texts, arrays of numbers), and tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


@functools.cache
def block_size(encoding: str) -> tuple[int, int]:
    """How many numbers a block of an encoding holds, and in how many bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType[encoding]]


@functools.cache
def _encodings() -> dict[int, str]:
    from gguf import GGMLQuantizationType

    return {int(kind): kind.name for kind in GGMLQuantizationType}


def byte_count(encoding: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor, whose rows along the last axis are whole blocks."""
    numbers, size = block_size(encoding)
    return math.prod(shape) // numbers * size


def read_file(path: epath.PathLike) -> Contents:
    """The metadata and the tensors of a file; of the tensors only their table is read.

    Raises:
      InputError: the file cannot be read, is cut short, or its header is not sound.
    """
    path = epath.Path(path)
    try:
        size = path.stat().length
        with path.open("rb") as file:
            return _read_header(path, file, size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no sound GGUF file ({str(error)[:120]})") from None


class _Cursor:
    """Goes through a header; every size is checked against what is left before anything is made of it."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._left = file, min(size, LARGEST_HEADER)
        self._buffer, self._at = b"", 0
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self._left:
            raise ValueError(f"{count} bytes are announced where {self._left} are left")
        while len(self._buffer) - self._at < count:
            missing = count - (len(self._buffer) - self._at)
            piece = self._file.read(max(missing, PIECE))
            if not piece:
                raise ValueError("it ends within its header")
            self._buffer, self._at = self._buffer[self._at :] + piece, 0
        self._at += count
        self._left -= count
        self.position += count
        return self._buffer[self._at - count : self._at]

    def integer(self, size: int) -> int:
        """The next unsigned number of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        """The next text."""
        return self.take(self.integer(8)).decode()

    def value(self, kind: int) -> Any:
        """The next value of a type."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            kind, count = self.integer(4), self.integer(8)
            if kind == STRING:
                self.check_count(count, 8)
                return [self.text() for _ in range(count)]
            dtype = _dtype(kind)
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).copy()
        dtype = _dtype(kind)
        number = np.frombuffer(self.take(dtype.itemsize), dtype)[0]
        return float(str(number)) if dtype.kind == "f" else number.item()  # 1e-5 and not 9.99999974e-06

    def check_count(self, count: int, smallest: int) -> None:
        """Refuses a number of things, of so many bytes at least, that the rest of the header cannot hold."""
        if count * smallest > self._left or count > MOST_ENTRIES:
            raise ValueError(f"{count} entries are announced where {self._left} bytes are left")


def _dtype(kind: int) -> np.dtype:
    if SCALARS.get(kind) is None:
        raise ValueError(f"a value has the unknown type {kind}")
    return np.dtype(SCALARS[kind])


def _read_header(path: epath.Path, file: BinaryIO, size: int) -> Contents:
    cursor = _Cursor(file, size)
    if size < 24 or cursor.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF and two counts")
    version = cursor.integer(4)
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}; 2 and 3 are known, little-endian")
    tensor_count, key_count = cursor.integer(8), cursor.integer(8)
    cursor.check_count(key_count, 13)
    cursor.check_count(tensor_count, 24)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"the key {key[:80]!r} stands there twice")
        metadata[key] = cursor.value(cursor.integer(4))
    entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name = cursor.text()
        if name in entries:
            raise ValueError(f"the tensor {name[:80]!r} stands there twice")
        entries[name] = _read_entry(cursor, name)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {str(alignment)[:40]}; a power of two is needed")
    first = -(-cursor.position // alignment) * alignment
    return Contents(metadata, _place(path, entries, first, size, alignment))


def _read_entry(cursor: _Cursor, name: str) -> tuple[tuple[int, ...], int, int]:
    """A tensor's shape, encoding and offset; the file has the innermost axis first."""
    dimensions = cursor.integer(4)
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"the tensor {name[:80]!r} has {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are known")
    shape = tuple(cursor.integer(8) for _ in range(dimensions))[::-1]
    if not all(shape) or math.prod(shape) >= 2**62:
        raise ValueError(f"the tensor {name[:80]!r} has the shape {shape}")
    return shape, cursor.integer(4), cursor.integer(8)


def _place(path: epath.Path, entries: Mapping[str, tuple], first: int, size: int, alignment: int) -> dict[str, Tensor]:
    """The tensors, each where it lies, after a look that none leaves the file or overlaps another."""
    tensors, end = {}, 0
    for name, (shape, number, offset) in sorted(entries.items(), key=lambda entry: entry[1][2]):
        encoding = _encodings().get(number, f"number {number}")
        if encoding not in ENCODINGS:
            raise ValueError(
                f"the tensor {name[:60]!r} is encoded as {encoding}; known are {', '.join(ENCODINGS[:8])}, ..."
            )
        if shape[-1] % block_size(encoding)[0]:
            raise ValueError(f"the tensor {name[:80]!r} has rows of {shape[-1]}, no whole {encoding} blocks")
        if offset % alignment or offset < end:
            raise ValueError(f"the tensor {name[:80]!r} lies at {offset}, within another or unaligned")
        end = offset + byte_count(encoding, shape)
        if first + end > size:
            raise ValueError(
                f"the tensor {name[:80]!r} ends at {first + end} of {size} bytes: it is cut short or damaged"
            )
        tensors[name] = Tensor(path, encoding, shape, first + offset)
    return {name: tensors[name] for name in entries}


def write_file(path: epath.PathLike, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[str, Any]]) -> None:
    """Writes a file of version 3, encoding one tensor at a time.

    Args:
      path: may be remote.
      metadata: as `Contents` has it; whole numbers become 32 or 64 bits wide as they need, fractions float32.
      tensors: ``(encoding, array)`` by name; F32, F16, BF16 or one that the `gguf` package can quantise to.
    """
    header = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        header += [_text(key), _typed(value)]
    offset = 0
    for name, (encoding, array) in tensors.items():
        number = next(number for number, known in _encodings().items() if known == encoding)
        shape = array.shape[::-1]
        header.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset))
        offset += _padded(byte_count(encoding, array.shape))
    with epath.Path(path).open("wb") as file:
        _write_padded(file, b"".join(header))
        for encoding, array in tensors.values():
            _write_padded(file, encode(np.asarray(array), encoding))


def encode(array: np.ndarray, encoding: str) -> bytes:
    """The blocks of a tensor."""
    from gguf import GGMLQuantizationType, quantize

    blocks = quantize(np.ascontiguousarray(array, np.float32), GGMLQuantizationType[encoding])
    return np.ascontiguousarray(blocks).tobytes()


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _write_padded(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.write(bytes(_padded(len(content)) - len(content)))


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _typed(value: Any) -> bytes:
    """A value after its type."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, int):
        kind, code = (5, "i") if value < 0 else (4, "I") if value < 2**32 else (10, "Q")
        return struct.pack(f"<I{code}", kind, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, np.ndarray):
        kind = next(kind for kind, code in SCALARS.items() if code is not None and np.dtype(code) == value.dtype)
        return struct.pack("<IIQ", ARRAY, kind, value.size) + value.tobytes()
    return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
