"""Reading files that are hostile until read, and writing files that are complete or absent."""

import json
import os
from typing import Any

from etils import epath

from fmzoo.errors import InputError

LARGEST = 512 * 2**20  # bytes; the largest published vocabularies take about 35 MB


def read_bytes(path: epath.PathLike, largest: int = LARGEST) -> bytes:
    """Returns a file's bytes after a look at its size.

    Raises:
      InputError: the file cannot be read, or has more than `largest` bytes.
    """
    path = epath.Path(path)
    try:
        size = path.stat().length
        if size > largest:
            raise InputError(f"{path} has {size} bytes; at most {largest} are read")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from None


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
      InputError: the file cannot be read, is not JSON, or holds something other than an object.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not JSON") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; an object is needed")
    return value


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that it is there completely or not at all."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes a value as indented JSON, completely or not at all."""
    try:
        content = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can spell and UTF-8 cannot
        content = json.dumps(value, indent=2).encode()
    write_bytes(path, content + b"\n")
