"""Kernels in fewer bits than float32 where a CPU decodes: widened a piece at a time, as they are multiplied.

XLA on CPU would widen a whole kernel first and write it down. Then fewer bits cost more time than float32, not less.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from fmzoo.models.transposed import FEW_ROWS, multiply_from_left

Array = jax.Array
TILE_BYTES = 2**21  # of float32 that a kernel is widened to at once, which stay in the cache


class Narrow(struct.PyTreeNode):
    """A transposed kernel in bfloat16, float16 or int8, whose products round nothing but their sums.

    Attributes:
      kernel: ``[F, D]`` in float16 or int8, or the bits of bfloat16 in uint16 (`hold`).
      scales: ``float32[F, D / block]``, each of a block of inputs of an int8 kernel; None is no scales.
    """

    kernel: Array
    scales: Array | None = None

    def dequantize(self, dtype: Any = jnp.float32) -> Array:
        """The kernel as an array ``[D, F]``."""
        return widen(self.kernel, self.scales, dtype).T

    def project(self, x: Array) -> Array:
        """``x [..., D]`` to ``[..., F]``, in float32 or better."""
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(jnp.float32, x.dtype))
        if len(rows) <= FEW_ROWS:
            y = multiply_by_tiles(self.kernel, self.scales, rows.T).T
        else:
            y = jnp.matmul(rows, jax.lax.optimization_barrier(widen(self.kernel, self.scales, rows.dtype)).T)
        return y.reshape(*x.shape[:-1], -1)


def hold(kernel: Array) -> Narrow:
    """A kernel ``[D, F]`` in bfloat16 or float16."""
    if kernel.dtype == jnp.bfloat16:  # XLA on CPU converts it at half the rate at which it shifts its bits
        kernel = jax.lax.bitcast_convert_type(kernel, jnp.uint16)
    return Narrow(kernel.T)


def widen(kernel: Array, scales: Array | None, dtype: Any) -> Array:
    """``[F, D]`` in another dtype, times the scales of its blocks."""
    if kernel.dtype == jnp.uint16:
        kernel = jax.lax.bitcast_convert_type(kernel.astype(jnp.uint32) << 16, jnp.float32)
    if scales is None:
        return kernel.astype(dtype)
    blocks = kernel.reshape(*scales.shape, -1).astype(dtype)
    return (blocks * scales[..., None].astype(dtype)).reshape(kernel.shape)


def multiply_by_tiles(kernel: Array, scales: Array | None, columns: Array) -> Array:
    """``[F, D]`` times ``[D, R]``, widened and multiplied a tile of F at a time; the last may repeat some of F."""
    features, inputs = kernel.shape
    size = min(features, max(1, TILE_BYTES // (4 * inputs)))

    def put(i: Array, y: Array) -> Array:
        start = jnp.minimum(i * size, features - size)
        parts = (part if part is None else jax.lax.dynamic_slice_in_dim(part, start, size) for part in (kernel, scales))
        tile = jax.lax.optimization_barrier(widen(*parts, columns.dtype))
        product = multiply_from_left(tile, columns, columns.dtype)
        return jax.lax.dynamic_update_slice_in_dim(y, product, start, 0)

    empty = jnp.zeros((features, columns.shape[1]), columns.dtype)
    return jax.lax.fori_loop(0, -(-features // size), put, empty)
