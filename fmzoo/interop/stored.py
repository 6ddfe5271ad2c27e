"""Arrays of ours that still lie in files of another project, and tensors of theirs that are not made yet.

Both are read when ``numpy.asarray`` asks for them, layer by layer, so that a conversion holds one tensor at a time. Of
a leaf of ours a part can be read as well, so that a process among many reads what its devices need and nothing else.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from fmzoo.errors import InputError
from fmzoo.interop.layouts import Layout, Shape
from fmzoo.parallel import Rules, specs

Box = tuple[slice, ...]  # of whole numbers, a slice for each axis


class Piece(NamedTuple):
    """What a part of a leaf is made of.

    Attributes:
      at: where the part is on the leaf's leading axes: the whole leaf, a layer, or an expert of a layer.
      tensors: of theirs; anything with a shape and a dtype that ``numpy.asarray`` reads.
      layout: how they become arrays of ours.
      number: which of these arrays.
      shapes: of all of them.
    """

    at: tuple[int, ...]
    tensors: tuple[Any, ...]
    layout: Layout
    number: int
    shapes: tuple[Shape, ...]

    def read(self, boxes: Sequence[Box]) -> list[np.ndarray]:
        """Parts that do not overlap, in one go if they are the whole."""
        shape = self.shapes[self.number]
        cuts = self.layout.view and hasattr(self.tensors[0], "read")
        if cuts and sum(map(_volume, boxes)) < math.prod(shape):
            return [self._cut(box) for box in boxes]
        whole = self._cut(_all_of(shape))
        return [whole[box] for box in boxes]

    def _cut(self, box: Box) -> np.ndarray:
        shapes = list(self.shapes)
        if not self.layout.view:
            return self.layout.to_ours(list(map(np.asarray, self.tensors)), shapes)[self.number][box]
        rank = len(shapes[self.number])

        def cut(tensor: np.ndarray) -> np.ndarray:
            array = self.layout.to_ours([tensor], shapes)[self.number]
            return array[box if array.ndim == rank else (*box[:-1], _whole_heads(box[-1], array.shape[-1]))]

        found = read_part(self.tensors[0], cut)
        if found.ndim == rank:
            return found
        first = box[-1].start % found.shape[-1]
        return found.reshape(*found.shape[:-2], -1)[..., first : first + box[-1].stop - box[-1].start]


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A leaf of ours in files.

    Attributes:
      shape: of the leaf.
      dtype: that it is given, whatever the files hold.
      pieces: what it is made of, all of it.
    """

    shape: Shape
    dtype: np.dtype
    pieces: tuple[Piece, ...]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def read(self, boxes: Sequence[Box]) -> list[np.ndarray]:
        """Parts of the leaf that do not overlap; no byte of a file is read twice."""
        found = [np.empty([s.stop - s.start for s in box], self.dtype) for box in boxes]
        for piece in self.pieces:
            depth = len(piece.at)
            here = [i for i, box in enumerate(boxes) if all(map(_within, piece.at, box))]
            if here:
                for i, array in zip(here, piece.read([boxes[i][depth:] for i in here]), strict=True):
                    with np.errstate(all="ignore"):  # a number may be none, or too large for the dtype
                        found[i][tuple(at - s.start for at, s in zip(piece.at, boxes[i], strict=False))] = array
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the leaf."""
        del copy  # reading always makes a new array
        (array,) = self.read([_all_of(self.shape)])
        return array if dtype is None else array.astype(dtype)

    def __getitem__(self, at: int | tuple[int, ...]) -> np.ndarray:
        """Reads the layer, or the expert of a layer, of that number."""
        at = at if isinstance(at, tuple) else (at,)
        box = (*(slice(i, i + 1) for i in at), *_all_of(self.shape[len(at) :]))
        return self.read([box])[0][(0,) * len(at)]

    def place(self, sharding: Sharding) -> jax.Array:
        """Reads what this process's devices need, each part once however many devices hold it, and puts it there."""
        spans = functools.partial(_spans, shape=self.shape)
        needed = sorted({*map(spans, sharding.addressable_devices_indices_map(self.shape).values())})
        parts = self.read([tuple(slice(*span) for span in box) for box in needed])
        found = dict(zip(needed, parts, strict=True))
        return jax.make_array_from_callback(self.shape, sharding, lambda index: found[spans(index)], dtype=self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Twin:
    """A tensor that a file holds a second time and that a config ties: both are read and compared."""

    tensor: Any
    copy: Any
    message: str

    @property
    def shape(self) -> Shape:
        """Of either."""
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the first."""
        return self.tensor.dtype

    def read(self, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What a function that permutes, splits and cuts axes makes of it.

        Raises:
          InputError: the two differ.
        """
        one, other = (read_part(tensor, cut) for tensor in (self.tensor, self.copy))
        if not np.array_equal(one, other):
            raise InputError(self.message)
        return one

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads and compares."""
        del copy
        return self.read(lambda whole: whole).astype(dtype or self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Unmade:
    """A tensor of theirs, made of arrays of ours when ``numpy.asarray`` asks for it.

    Attributes:
      shape: of the tensor.
      dtype: of ours.
      leaves: of ours, each with its index, as in `Piece.at`.
      layout: how they become tensors of theirs.
      number: which of these tensors.
    """

    shape: Shape
    dtype: np.dtype
    leaves: tuple[tuple[Any, tuple[int, ...]], ...]
    layout: Layout
    number: int

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Makes the tensor; a view of ours where the layout allows."""
        del copy
        arrays = [
            leaf[at] if isinstance(leaf, Stored) and at else np.asarray(leaf)[*at, ...] for leaf, at in self.leaves
        ]
        tensor = self.layout.to_theirs(arrays)[self.number]
        return tensor if dtype is None else tensor.astype(dtype)


def read_part(tensor: Any, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What a function makes of a tensor that only permutes, splits and cuts axes; only that, if the tensor can."""
    return tensor.read(cut) if hasattr(tensor, "read") else cut(np.asarray(tensor))


def _take(leaf: Any, at: tuple[int, ...]) -> np.ndarray:
    return leaf[at] if isinstance(leaf, Stored) and at else np.asarray(leaf)[*at, ...]


def as_jax(path: str, leaf: Stored) -> jax.Array:
    """A leaf, read whole, on the default device."""
    del path
    return jnp.asarray(np.asarray(leaf))


def on_mesh(mesh: Mesh, rules: Rules) -> Callable[[str, Stored], jax.Array]:
    """What puts a leaf, given its path, onto a mesh as the rules say."""
    return lambda path, leaf: leaf.place(NamedSharding(mesh, specs(rules, {path: leaf}, mesh)[path]))


def _all_of(shape: Shape) -> Box:
    return tuple(slice(0, size) for size in shape)


def _spans(index: tuple[slice, ...], shape: Shape) -> tuple[tuple[int, int], ...]:
    return tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))


def _volume(box: Box) -> int:
    return math.prod(s.stop - s.start for s in box)


def _within(number: int, span: slice) -> bool:
    return span.start <= number < span.stop


def _whole_heads(span: slice, size: int) -> slice:
    """The heads, of so many numbers each, that a part of their joined axis touches."""
    return slice(span.start // size, -(-span.stop // size))
