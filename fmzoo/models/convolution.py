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
        kernel, bias = read_convolution(self, (self.size, self.size, x.shape[-1], self.features), self.init_scale)
        return convolve(x, kernel, self.stride, self.padding) + bias.astype(x.dtype)


class UpsampledConvolution(nn.Module):
    """A 3x3 convolution of the image with each pixel repeated in a square of four; parameters as in `Convolution`."""

    features: int

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, int]) -> Array:
        """``x [B, H, W, C]`` to ``[B, *size, F]``; the size as in `upsample`."""
        kernel, bias = read_convolution(self, (3, 3, x.shape[-1], self.features), 1.0)
        doubled = size == (2 * x.shape[1], 2 * x.shape[2])
        y = convolve_upsampled(x, kernel) if doubled else convolve(upsample(x, size), kernel)
        return y + bias.astype(x.dtype)


def read_convolution(module: nn.Module, shape: tuple[int, ...], init_scale: float) -> tuple[Array, Array]:
    """The parameters ``kernel`` and ``bias`` of a module, made if they are not there.

    Raises:
      InputError: the kernel is a node.
    """
    kernel = read(module, "kernel", nn.initializers.variance_scaling(init_scale, "fan_in", "normal"), shape)
    if isinstance(kernel, Node):
        path = "/".join((*module.path, "kernel"))
        raise InputError(f"parameter {path} is a {type(kernel).__name__}; a convolution's kernel must be an array")
    return kernel, read(module, "bias", nn.initializers.zeros, shape[-1:])


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


def convolve_upsampled(x: Array, kernel: Array) -> Array:
    """``convolve(upsample(x), kernel)`` for a 3x3 kernel, in 4/9 of the multiplications.

    Of three neighbouring rows at twice the resolution two hold the same pixels, so each of the four positions within a
    repeated pixel sees a square of four, by a 2x2 kernel of sums (the sub-pixel view of arXiv 1609.05158).
    """
    batch, rows, columns, _ = x.shape
    parts = []
    for i, half in enumerate(_paired(kernel, 0)):
        for j, quarter in enumerate(_paired(half, 1)):
            parts.append(convolve(x, quarter, padding=((1 - i, i), (1 - j, j))))
    squares = jnp.stack(parts, axis=3).reshape(batch, rows, columns, 2, 2, -1)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, -1)


def _paired(kernel: Array, axis: int) -> tuple[Array, Array]:
    """A kernel's three taps along an axis summed to two: for the earlier and the later copy of a pixel."""
    before, here, after = jnp.split(kernel, 3, axis)
    return jnp.concatenate([before, here + after], axis), jnp.concatenate([before + here, after], axis)
