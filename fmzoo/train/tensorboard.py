"""Scalars as TensorBoard reads them, written here and now: no thread that could fail alone, nothing heavy to import.

An event file is a row of records: length, its check sum, the event, its check sum (TensorFlow's
`core/lib/io/record_writer.h`). An event is a protocol buffer (`core/util/event.proto`); a few fields are enough.
"""

import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping

from etils import epath

SECONDS_BETWEEN_FLUSHES = 10
_NUMBERS = itertools.count()


class EventFile:
    """A new event file in a folder, for a run that starts or goes on.

    Raises:
      OSError: it cannot be written, when made, added to or closed.
    """

    def __init__(self, folder: epath.PathLike, purge_step: int = 0):
        """Opens it.

        Args:
          folder: local; made if it is not there.
          purge_step: what older files of the folder say of this step and later ones is void.
        """
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._file, self._flushed = (folder / name).open("wb"), time.monotonic()
        self._write(_text(3, "brain.Event:2"))
        self._write(_integer(2, purge_step) + _bytes(7, _integer(1, 1)))  # a session's log, of status START

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars by name; they are on disk some seconds later, or when the file is closed."""
        values = [_bytes(1, _text(1, name) + _float(2, value)) for name, value in scalars.items()]
        self._write(_integer(2, step) + _bytes(5, b"".join(values)))
        if time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._flushed = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        """Puts the rest on disk."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + event  # field 1: the wall time
        length = struct.pack("<Q", len(event))
        self._file.write(length + masked_crc32c(length) + event + masked_crc32c(event))


def masked_crc32c(data: bytes) -> bytes:
    """The check sum of a record: CRC-32C (RFC 3720, B.4), turned by 15 bits and moved."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc32c_table()


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
