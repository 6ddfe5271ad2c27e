"""Convolutions of images, channels last, and the nearest-neighbour upsampling that goes with them."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.models.projection import Node, read

Array = jax.Array
Padding = tuple[tuple[int, int], tuple[int, int]]  # rows above and below, columns left and right


def convolve(x: Array, kernel: Array, stride: int = 1, padding: Padding | None = None) -> Array:
    """A two-dimensional convolution, in the dtype of ``x``.

    Args:
      x: ``[B, H, W, C]``.
      kernel: ``[k, k, C, F]``.
      stride: of both axes.
      padding: zeros around the image; None is ``k // 2`` on every side.

    Returns:
      ``[B, h, w, F]`` with ``h = (H + padding - k) // stride + 1``.
    """
    half = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(stride, stride),
        padding=((half, half), (half, half)) if padding is None else padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Convolution(nn.Module):
    """A convolution with the parameters ``kernel [k, k, C, F]`` and ``bias [F]``."""

    features: int
    size: int = 3
    stride: int = 1
    padding: Padding | None = None
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, H, W, C]`` to ``[B, h, w, F]``; arguments as in `convolve`.

        Raises:
          InputError: the kernel is a node, which only a dense projection can be.
        """
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = read(self, "kernel", init, (self.size, self.size, x.shape[-1], self.features))
        if isinstance(kernel, Node):
            path = "/".join((*self.path, "kernel"))
            raise InputError(f"parameter {path} is a {type(kernel).__name__}; a convolution's kernel must be an array")
        bias = read(self, "bias", nn.initializers.zeros, (self.features,))
        return convolve(x, kernel, self.stride, self.padding) + bias.astype(x.dtype)


def upsample(x: Array, size: tuple[int, int] | None = None) -> Array:
    """Repeats each pixel in a square of four.

    Args:
      x: ``[B, H, W, C]``.
      size: rows and columns to keep, each twice those of ``x`` or one less; None keeps all. That is what
        nearest-neighbour interpolation to that size gives.
    """
    batch, rows, columns, channels = x.shape
    tall = jnp.broadcast_to(x[:, :, None, :, None], (batch, rows, 2, columns, 2, channels))
    y = tall.reshape(batch, 2 * rows, 2 * columns, channels)
    return y if size is None else y[:, : size[0], : size[1]]
