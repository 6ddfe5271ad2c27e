"""RMSNorm and LayerNorm, computed in float32 or better."""

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
