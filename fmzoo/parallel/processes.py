"""What several processes of one run tell each other, beside arrays: small values that JSON holds."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fmzoo.errors import InputError


def gather_json(value: Any) -> list[Any]:
    """The value of every process, in order, on every process; all must call it."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(text.size))).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def from_first(find: Callable[[], Any]) -> Any:
    """What the first process finds, on every process: for what others may already be changing, such as a folder.

    Raises:
      InputError: on every process, if ``find`` raised it on the first.
    """
    if jax.process_count() == 1:
        return find()
    found: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            found = {"value": find()}
        except InputError as error:
            found = {"refused": str(error)}
    found = gather_json(found)[0]
    if "refused" in found:
        raise InputError(found["refused"])
    return found["value"]
