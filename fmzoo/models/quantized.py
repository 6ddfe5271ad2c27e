"""Kernels in 8 or 4 bits: nodes that multiply like the array they were made from, near enough.

Both cut the input axis into blocks that share a scale, as GGUF's Q8_0 and Q4_1 do (32 numbers, a float16 scale): then
what was stored so is kept bit for bit. `quantize` takes NumPy arrays and JAX arrays, and gives the same kind.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from fmzoo.errors import InputError
from fmzoo.models.projection import Node

Array = jax.Array
Kind = Literal["int8", "int4"]
BLOCK = 32
SCALE = jnp.float16  # what scales and minimums are stored in
LARGEST, LEVELS = 127, 15  # of int8, symmetric; of four bits


class Int8Kernel(struct.PyTreeNode):
    """A kernel ``[..., D, F]`` as ``values * scale``, the scale shared by a block of inputs of one output.

    One block of all D inputs is a scale for each output; then the product is taken first and scaled after.

    Attributes:
      values: ``int8[..., D, F]``.
      scales: ``float16[..., D / block, F]``.
    """

    values: Array
    scales: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel that it stands for."""
        return self.values.shape

    @property
    def dtype(self) -> jnp.dtype:
        """Of what `dequantize` gives by default."""
        return jnp.dtype(jnp.float32)

    def dequantize(self, dtype: Any = jnp.float32) -> Array:
        """The kernel as an array ``[..., D, F]``."""
        blocks = _cut(self.values, self.scales.shape[-2]).astype(dtype)
        return (blocks * self.scales[..., :, None, :].astype(dtype)).reshape(self.shape)

    def project(self, x: Array) -> Array:
        """``x [..., D]`` to ``[..., F]``."""
        if self.scales.shape[-2] > 1:
            return jnp.matmul(x, self.dequantize(x.dtype))
        return jnp.matmul(x, self.values.astype(x.dtype)) * self.scales[0].astype(x.dtype)


class BlockKernel(struct.PyTreeNode):
    """A kernel ``[..., D, F]`` as ``value * scale + minimum``, values 0 to 15, the rest shared by a block of inputs.

    Attributes:
      packed: ``uint8[..., D / 2, F]``: of each block the first half of the values in the low four bits, the second
        half in the high four.
      scales: ``float16[..., D / block, F]``.
      minimums: ``float16[..., D / block, F]``.
    """

    packed: Array
    scales: Array
    minimums: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel that it stands for."""
        *lead, half, features = self.packed.shape
        return (*lead, 2 * half, features)

    @property
    def dtype(self) -> jnp.dtype:
        """Of what `dequantize` gives by default."""
        return jnp.dtype(jnp.float32)

    def dequantize(self, dtype: Any = jnp.float32) -> Array:
        """The kernel as an array ``[..., D, F]``."""
        packed = _cut(self.packed, self.scales.shape[-2])
        values = jnp.concatenate([packed & 15, packed >> 4], axis=-2).astype(dtype)
        scales, minimums = (part[..., :, None, :].astype(dtype) for part in (self.scales, self.minimums))
        return (values * scales + minimums).reshape(self.shape)

    def project(self, x: Array) -> Array:
        """``x [..., D]`` to ``[..., F]``."""
        return jnp.matmul(x, self.dequantize(x.dtype))


def quantize(kernel: Any, kind: Kind, block: int | None = BLOCK) -> Int8Kernel | BlockKernel:
    """A kernel in fewer bits.

    Each number is off by at most half a step of its block, and by the rounding of the scale to float16. A step is 1/127
    of the block's largest magnitude (int8), or at most 1/15 of its range (int4).

    Args:
      kernel: ``[..., D, F]``, NumPy or JAX.
      kind: ``int8``, or ``int4`` with a minimum for each block.
      block: how many inputs share a scale, or the largest common divisor of that and D; None is all of them.

    Raises:
      InputError: the kind is unknown, the kernel is no matrix, or for int4 the blocks are of odd size.
    """
    makers: dict[str, Callable[[Any], Int8Kernel | BlockKernel]] = {"int8": _quantize_int8, "int4": _quantize_int4}
    if kind not in makers:
        raise InputError(f"kind is {kind!r}; int8 or int4 is needed")
    if kernel.ndim < 2:
        raise InputError(f"a kernel of shape {kernel.shape} is no matrix; [..., D, F] is needed")
    inputs = kernel.shape[-2]
    size = inputs if block is None else math.gcd(inputs, block)
    if kind == "int4" and size % 2:
        raise InputError(f"a kernel of {inputs} inputs has blocks of {size}; an even number is needed for int4")
    xp = kernel.__array_namespace__()
    return makers[kind](_cut(xp.astype(kernel, xp.float32), inputs // size))


def _quantize_int8(blocks: Any) -> Int8Kernel:
    """From ``[..., N, block, F]``."""
    xp = blocks.__array_namespace__()
    scales = xp.astype(xp.max(xp.abs(blocks), axis=-2, keepdims=True) / LARGEST, SCALE)
    values = xp.clip(xp.round(blocks / _divisor(scales)), -LARGEST, LARGEST)
    return Int8Kernel(_join(xp.astype(values, xp.int8)), scales[..., 0, :])


def _quantize_int4(blocks: Any) -> BlockKernel:
    """From ``[..., N, block, F]``: the better, for each block, of two grids.

    One goes from the smallest number to the largest; the other has a level at 0 and its end at the number of largest
    magnitude, as Q4_0 has.
    """
    xp = blocks.__array_namespace__()
    low, high = (find(blocks, axis=-2, keepdims=True) for find in (xp.min, xp.max))
    centred = xp.where(-low > high, low, high) / -8
    grids = [(centred, -8 * centred), ((high - low) / LEVELS, low)]
    found = [_fit_grid(blocks, scale, minimum) for scale, minimum in grids]
    closer = found[0][3] <= found[1][3]
    values, scales, minimums = (xp.where(closer, a, b) for a, b in zip(found[0][:3], found[1][:3], strict=True))
    first, second = xp.split(xp.astype(values, xp.uint8), 2, axis=-2)
    return BlockKernel(_join(first | (second << 4)), scales[..., 0, :], minimums[..., 0, :])


def _fit_grid(blocks: Any, scale: Any, minimum: Any) -> tuple[Any, Any, Any, Any]:
    """The nearest levels, scale and minimum as stored, and the squared error of each block."""
    xp = blocks.__array_namespace__()
    scale, minimum = xp.astype(scale, SCALE), xp.astype(minimum, SCALE)
    start = xp.astype(minimum, xp.float32)
    values = xp.clip(xp.round((blocks - start) / _divisor(scale)), 0, LEVELS)
    off = values * xp.astype(scale, xp.float32) + start - blocks
    return values, scale, minimum, xp.sum(off * off, axis=-2, keepdims=True)


def _divisor(scales: Any) -> Any:
    xp = scales.__array_namespace__()
    wide = xp.astype(scales, xp.float32)
    return xp.where(wide == 0, 1.0, wide)


def _cut(kernel: Any, count: int) -> Any:
    """``[..., D, F]`` to ``[..., count, D / count, F]``."""
    *lead, inputs, features = kernel.shape
    return kernel.reshape(*lead, count, inputs // count, features)


def _join(blocks: Any) -> Any:
    *lead, count, size, features = blocks.shape
    return blocks.reshape(*lead, count * size, features)


QUANTIZED = r"(^|/)(kernel|head)$"
KEPT = r"router|shared_gate"  # decisions between experts, which are few numbers and matter much


def is_quantized(path: str) -> bool:
    """Whether the parameter at a path is one that `quantize_params` changes."""
    return re.search(QUANTIZED, path) is not None and re.search(KEPT, path) is None


def quantize_params(params: Any, kind: Kind, block: int | None = BLOCK) -> Any:
    """Parameters of a decoder with its kernels and head in fewer bits; embeddings, norms and biases stay arrays.

    In 8 bits a head that is the embedding too gets a form of its own, ``tied_head``.
    """

    def one(path: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: one(f"{path}/{name}", part) for name, part in value.items()}
        if isinstance(value, list):
            return [one(path, part) for part in value]
        return quantize(value, kind, block) if is_quantized(path) and not isinstance(value, Node) else value

    fewer = one("", params)
    if kind == "int8" and "embed" in params and not {"head", "tied_head"} & set(params):
        fewer["tied_head"] = quantize(jnp.swapaxes(params["embed"], -1, -2), kind, block)
    return fewer


def dequantize_params(params: Any, dtype: Any = jnp.float32) -> Any:
    """Parameters with an array in place of each quantised kernel, and the embedding alone for a tied head."""
    quantized = (Int8Kernel, BlockKernel)
    return jax.tree.map(
        lambda leaf: leaf.dequantize(dtype) if isinstance(leaf, quantized) else leaf,
        {name: part for name, part in params.items() if name != "tied_head"},
        is_leaf=lambda leaf: isinstance(leaf, quantized),
    )
