"""How a tensor of another project lies in memory beside an array of ours, both ways."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy or JAX
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How tensors of theirs become arrays of ours, and back, for all of a row's names at once.

    Attributes:
      to_ours: ``(their tensors, our shapes) -> our arrays``; an axis of ours may come as the two that it joins.
      to_theirs: ``our arrays -> their tensors``; also run on tracers, which tells the shapes of theirs.
      view: whether `to_ours` only permutes, splits and cuts the axes of one tensor, so that NumPy makes a view of it
        and a part of ours can be read from a file without the rest.
      stacked: whether theirs are the entries of our first axis, each by itself in this layout.
      outputs: the axis of their tensor that a dense kernel's outputs are on, where its inputs stand in our order; None
        where it is no such kernel.
    """

    to_ours: Callable[[list[Array], list[Shape]], list[Array]]
    to_theirs: Callable[[list[Array]], list[Array]]
    view: bool = False
    stacked: bool = False
    outputs: int | None = None


AS_IS = Layout(lambda theirs, shapes: theirs, lambda ours: ours, view=True, outputs=1)
TRANSPOSED = Layout(
    lambda theirs, shapes: [x.T for x in theirs], lambda ours: [x.T for x in ours], view=True, outputs=0
)
STACKED = TRANSPOSED._replace(stacked=True)  # [E, in, out] here, E tensors [out, in] there
CONVOLUTION = Layout(  # OIHW there, HWIO here
    lambda theirs, shapes: [x.transpose(2, 3, 1, 0) for x in theirs],
    lambda ours: [x.transpose(3, 2, 0, 1) for x in ours],
    view=True,
)
POINTWISE = Layout(  # a 1x1 convolution there, a dense kernel here
    lambda theirs, shapes: [x[:, :, 0, 0].T for x in theirs],
    lambda ours: [x.T[:, :, None, None] for x in ours],
    view=True,
    outputs=0,
)


def joined(axis: int, first: Layout = AS_IS) -> Layout:
    """One tensor of theirs holds several arrays of ours one after another along an axis of ours, ``first`` applied."""

    def split(theirs: list[Array], shapes: list[Shape]) -> list[Array]:
        (whole,) = first.to_ours(theirs, shapes)
        return np.split(whole, np.cumsum([shape[axis] for shape in shapes])[:-1], axis=axis)

    def join(ours: list[Array]) -> list[Array]:
        return first.to_theirs([ours[0].__array_namespace__().concat(ours, axis=axis)])

    return Layout(split, join, view=first.view, outputs=first.outputs if axis == -1 else None)


@functools.cache
def joined_by_head(head_dim: int, first: Layout = AS_IS) -> Layout:
    """One tensor of theirs holds several arrays of ours, head by head: ``[..., N, arrays, H]``, ``first`` applied."""

    def split(theirs: list[Array], shapes: list[Shape]) -> list[Array]:
        (whole,) = first.to_ours(theirs, shapes)
        heads = whole.reshape(*whole.shape[:-1], -1, len(shapes), head_dim)
        return [heads[..., i, :] for i in range(len(shapes))]

    def join(ours: list[Array]) -> list[Array]:
        heads = [x.reshape(*x.shape[:-1], -1, head_dim) for x in ours]
        whole = ours[0].__array_namespace__().stack(heads, axis=-2)
        return first.to_theirs([whole.reshape(*ours[0].shape[:-1], -1)])

    return Layout(split, join, view=first.view, outputs=first.outputs)
