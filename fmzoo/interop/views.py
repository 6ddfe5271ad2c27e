"""A tensor made from another in a file, which is read when `numpy.asarray` asks for it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from fmzoo.interop.safetensors import Tensor


@dataclasses.dataclass(frozen=True)
class View:
    """What a function of NumPy arrays makes of a tensor.

    Attributes:
      source: the tensor; anything with a shape and a dtype that ``numpy.asarray`` reads.
      shape: of the result.
      change: a transposition, a slice or the like; the dtype stays.
    """

    source: Tensor | np.ndarray
    shape: tuple[int, ...]
    change: Callable[[np.ndarray], np.ndarray]

    @property
    def dtype(self) -> np.dtype:
        """Of the source."""
        return self.source.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the source and changes it."""
        del copy  # reading a file makes a new array
        array = self.change(np.asarray(self.source))
        return array if dtype is None else array.astype(dtype)


def part(source: Tensor | np.ndarray, number: int, count: int) -> View:
    """One of ``count`` equal parts along the first axis, which has a multiple of ``count`` entries."""
    size = source.shape[0] // count
    return View(source, (size, *source.shape[1:]), lambda x: x[number * size : (number + 1) * size])


def transposed(source: Tensor | np.ndarray) -> View:
    """The axes in the opposite order."""
    return View(source, tuple(source.shape[::-1]), lambda x: x.T)


def as_linear(source: Tensor | np.ndarray) -> View:
    """A 1x1 convolution ``[F, D, 1, 1]`` as the dense kernel ``[F, D]`` that it is."""
    return View(source, tuple(source.shape[:2]), lambda x: x.reshape(x.shape[:2]))
