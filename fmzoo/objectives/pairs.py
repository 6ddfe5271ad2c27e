"""Two completions of one prompt as one batch of rows, so that a network reads both in one call."""

import jax.numpy as jnp

from fmzoo.errors import InputError, require
from fmzoo.objectives.contract import Batch

FIELDS = ("inputs", "targets", "weights", "positions", "segment_ids")


def interleave(batch: Batch, first: str, second: str) -> Batch:
    """The fields ``{first}_{name}`` and ``{second}_{name}``, each ``[B, T]``, as ``name [B, 2, T]``.

    Rows stay with their device, as the new axis is inside of theirs.

    Raises:
      InputError: the two sides have other fields or shapes.
    """
    found = {}
    for name in FIELDS:
        pair = [batch.get(f"{side}_{name}") for side in (first, second)]
        if (pair[0] is None) != (pair[1] is None):
            side = first if pair[0] is None else second
            raise InputError(f"batch has no {side}_{name} beside the other side's; both or neither is needed")
        if pair[0] is not None:
            require(f"{second}_{name}", pair[1], "B T", require(f"{first}_{name}", pair[0], "B T"))
            found[name] = jnp.stack(pair, axis=1)
    return found


def part(tokens: Batch, side: int) -> Batch:
    """One side of what `interleave` made, ``[B, T]``."""
    return {name: value[:, side] for name, value in tokens.items()}
