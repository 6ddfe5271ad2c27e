"""Kernels that lie transposed, as a product of few rows reads them quickest on CPU."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
FEW_ROWS = 128  # up to which `Transposed` multiplies from the left


class Transposed(struct.PyTreeNode):
    """A kernel that lies transposed, as a product of few rows reads it quickest on CPU.

    There XLA packs the right factor of a product anew each time, which for a few rows of ``x`` costs more than the
    product. So the weight is made the left factor and the small ``x`` the right one.

    Attributes:
      kernel: ``[F, D]``.
    """

    kernel: Array

    def dequantize(self, dtype: Any = None) -> Array:
        """The kernel as an array ``[D, F]``, in its own dtype unless told."""
        return self.kernel.astype(dtype or self.kernel.dtype).T

    def project(self, x: Array) -> Array:
        """``x [..., D]`` to ``[..., F]``, in float32 or better."""
        kernel, wide = self.kernel.astype(x.dtype), jnp.promote_types(jnp.float32, x.dtype)
        if math.prod(x.shape[:-1]) > FEW_ROWS:
            return jnp.einsum("...d,fd->...f", x, kernel, preferred_element_type=wide)
        y = multiply_from_left(kernel, x.reshape(-1, x.shape[-1]).T, wide).T
        return y.reshape(*x.shape[:-1], -1)


def multiply_from_left(kernel: Array, columns: Array, dtype: Any) -> Array:
    """``[F, D]`` times ``[D, R]``."""
    # The barriers keep XLA from turning the product round again.
    columns = jax.lax.optimization_barrier(columns)
    return jax.lax.optimization_barrier(jnp.matmul(kernel, columns, preferred_element_type=dtype))
