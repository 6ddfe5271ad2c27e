"""RMSNorm, LayerNorm and GroupNorm, computed in float32 or better."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.config import NormConfig
from fmzoo.models.projection import read

Array = jax.Array


def rms_norm(x: Array, epsilon: float) -> Array:
    """``x / sqrt(mean(x^2) + epsilon)`` over the last axis (arXiv 1910.07467, eq. 4), in the dtype of ``x``."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


def layer_norm(x: Array, epsilon: float) -> Array:
    """``(x - mean) / sqrt(variance + epsilon)`` over the last axis (arXiv 1607.06450), in the dtype of ``x``."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)


class Norm(nn.Module):
    """Normalises ``[..., D]`` over its last axis, then scales by ``w`` or ``1 + w`` and adds a bias if configured."""

    config: NormConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Gives the dtype of ``x``; the arithmetic is in ``promote_types(float32, x.dtype)``."""
        c, wide, shape = self.config, jnp.promote_types(jnp.float32, x.dtype), (x.shape[-1],)
        init = nn.initializers.zeros if c.unit_offset else nn.initializers.ones
        scale = read(self, "scale", init, shape).astype(wide) + (1 if c.unit_offset else 0)
        y = (rms_norm if c.kind == "rms" else layer_norm)(x.astype(wide), c.epsilon) * scale
        if c.bias:
            y = y + read(self, "bias", nn.initializers.zeros, shape).astype(wide)
        return y.astype(x.dtype)


def group_norm(x: Array, groups: int, epsilon: float) -> tuple[Array, Array]:
    """The scale and shift of GroupNorm (arXiv 1803.08494): ``x * scale + shift`` is normalised.

    Args:
      x: ``[B, ..., C]``.
      groups: into how many the channels are cut, each normalised over its channels and all middle axes.
      epsilon: added to the variance.

    Returns:
      Two arrays ``[B, 1, ..., C]`` in the dtype of ``x``.
    """
    middle = tuple(range(1, x.ndim - 1))

    def over_group(y: Array) -> Array:
        """Means of each channel ``[B, 1, ..., C]`` to means of its group, in the same shape."""
        parts = y.reshape(*y.shape[:-1], groups, -1)
        return jnp.broadcast_to(jnp.mean(parts, axis=-1, keepdims=True), parts.shape).reshape(y.shape)

    mean = over_group(jnp.mean(x, axis=middle, keepdims=True))
    centred = x - mean
    scale = jax.lax.rsqrt(over_group(jnp.mean(centred * centred, axis=middle, keepdims=True)) + epsilon)
    return scale, -mean * scale


class GroupNorm(nn.Module):
    """Normalises ``[B, ..., C]`` over groups of channels and all middle axes, then scales and shifts each channel."""

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Gives the dtype of ``x``; the arithmetic is in ``promote_types(float32, x.dtype)``."""
        wide, shape = jnp.promote_types(jnp.float32, x.dtype), (x.shape[-1],)
        scale = read(self, "scale", nn.initializers.ones, shape).astype(wide)
        bias = read(self, "bias", nn.initializers.zeros, shape).astype(wide)
        factor, shift = group_norm(x.astype(wide), self.groups, self.epsilon)
        return (x.astype(wide) * (factor * scale) + (shift * scale + bias)).astype(x.dtype)
