"""The time of a diffusion process, and other single numbers, as a vector."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.activations import ACTIVATIONS
from fmzoo.models.projection import Weights

Array = jax.Array


def sinusoids(
    numbers: Array,
    width: int,
    *,
    sines_first: bool = False,
    frequency_shift: float = 0.0,
    longest: float = 10_000.0,
) -> Array:
    """Cosines and sines of a number at frequencies from 1 down to ``1 / longest`` (arXiv 1706.03762, section 3.5).

    Args:
      numbers: ``[...]``, whole or not.
      width: D of the result; where it is odd, the last column is 0.
      sines_first: sines, then cosines (DDPM); else cosines, then sines (Stable Diffusion, DiT).
      frequency_shift: s of the frequencies ``longest ** (-i / (D // 2 - s))``; 1 reaches ``1 / longest``.
      longest: the period of the last frequency, over 2 pi, if the shift is 1.

    Returns:
      ``[..., D]`` in float32 or better.
    """
    numbers, half = jnp.asarray(numbers), width // 2
    wide = jnp.promote_types(jnp.float32, numbers.dtype)
    frequencies = jnp.exp(-math.log(longest) * jnp.arange(half, dtype=wide) / (half - frequency_shift))
    angles = numbers.astype(wide)[..., None] * frequencies
    waves = [jnp.cos(angles), jnp.sin(angles)]
    y = jnp.concatenate(waves[::-1] if sines_first else waves, axis=-1)
    return jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, width % 2)])


class TimeEmbedding(nn.Module):
    """Two projections with an activation between them, which all conditioning by vectors goes through."""

    features: int
    activation: str = "silu"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, D]`` to ``[B, F]``."""
        hidden = ACTIVATIONS[self.activation](Weights(self.features, True, name="input")(x.shape[-1])(x))
        return Weights(self.features, True, name="output")(self.features)(hidden)
