"""The two factors of a low-rank change through the layout of the kernel that they change, both ways.

Theirs may hold several kernels of ours as one, whose change is then one too: ``x A`` goes to all of them, and each has
its own part of ``B``. Changes of several kernels become one change of the whole if their ``A`` stand side by side and
each ``B`` is zero where it meets another's; where they share an ``A``, it stands there once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmzoo.interop.layouts import Layout
from fmzoo.interop.mapping import their_shapes


class Factors(NamedTuple):
    """A kernel's change ``A B``."""

    a: np.ndarray  # [D, r]
    b: np.ndarray  # [r, F]


def torch_shape(layout: Layout, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """``(out, in)``, or ``(out, in, k, k)`` of a convolution, of torch's layer for kernels of ours of these shapes."""
    (shape,) = their_shapes(layout, tuple(shapes))
    return shape[::-1] if layout.outputs == 1 else shape


def split_up(up: np.ndarray, layout: Layout, widths: Sequence[int]) -> list[np.ndarray]:
    """``b [r, F]`` of each kernel of ours, of the widths given, from torch's ``up [out, r]`` of the whole."""
    shapes = tuple((up.shape[1], width) for width in widths)
    theirs = up.T if layout.outputs == 1 else up
    parts = layout.to_ours([theirs.reshape(*their_shapes(layout, shapes))], list(shapes))
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def join_up(parts: Sequence[np.ndarray], layout: Layout) -> np.ndarray:
    """Torch's ``up [out, r]``, or ``[out, r, 1, 1]``, of the whole from ``b [r, F]`` of each kernel of ours."""
    (theirs,) = layout.to_theirs(list(parts))
    return theirs.T if layout.outputs == 1 else theirs


def stand_together(changes: Sequence[Factors | None], widths: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """One ``a [D, R]`` for all kernels and ``b [R, F]`` of each, equal to their own changes.

    Args:
      changes: of each kernel, None where it has none; at least one has.
      widths: F of each.

    Returns:
      R is the sum of the ranks of different ``a``, without those that are zero in every factor.
    """
    starts: list[int] = []
    firsts: list[np.ndarray] = []
    for change in changes:
        if change is None:
            starts.append(0)
            continue
        at = next((i for i, a in enumerate(firsts) if np.array_equal(a, change.a)), len(firsts))
        starts.append(sum(a.shape[1] for a in firsts[:at]))
        firsts += [change.a] if at == len(firsts) else []
    whole = np.concatenate(firsts, axis=1)
    parts = [np.zeros((whole.shape[1], width), whole.dtype) for width in widths]
    for part, start, change in zip(parts, starts, changes, strict=True):
        if change is not None:
            part[start : start + len(change.b)] = change.b
    used = np.any([np.any(x != 0, axis=1) for x in (whole.T, *parts)], axis=0)
    return whole[:, used], [part[used] for part in parts]
