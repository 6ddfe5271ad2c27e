"""Where a token stands: rotary angles with their scalings, sinusoids, and ALiBi's slopes."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.models.config import RopeConfig

Array = jax.Array


def rope_frequencies(config: RopeConfig, head_dim: int) -> tuple[np.ndarray, float]:
    """Angles a position turns by, ``float64[R / 2]`` for ``R = fraction * head_dim``, and the factor on cos and sin.

    ``theta ** (-2i / R)`` (arXiv 2104.09864, section 3.2.2), then one of: ``linear``, divided by the factor
    (2306.15595); ``llama3``, long wavelengths divided, short ones kept, a linear blend between (Llama 3.1's
    ``rope_scaling``); ``yarn``, a ramp over dimensions and a factor on the scores (2309.00071, section 3);
    ``longrope``, each divided by a factor of its own (2402.13753, section 3), of which there is a set for short and one
    for long sequences: the config says which, so that a token's angle does not depend on how long its sequence becomes.
    """
    rotated = int(head_dim * config.fraction)
    plain = config.theta ** -(np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    if config.scaling == "linear":
        return plain / config.factor, 1.0
    if config.scaling == "llama3":
        return _llama3(config, plain), 1.0
    if config.scaling == "yarn":
        stretched = _yarn_ramp(config, rotated)
        blend = plain / config.factor * stretched + plain * (1 - stretched)
        default = 0.1 * math.log(config.factor) + 1.0 if config.factor > 1 else 1.0
        return blend, default if config.attention_factor is None else config.attention_factor
    if config.scaling == "longrope":
        factors = np.array(config.long_factors if config.stretched else config.short_factors)
        default = 1 + math.log(config.factor) / math.log(config.original_context) if config.factor > 1 else 1.0
        scaled = default**0.5 if config.attention_factor is None else config.attention_factor
        return plain / factors if factors.size else plain, scaled
    return plain, 1.0


def _llama3(config: RopeConfig, plain: np.ndarray) -> np.ndarray:
    turns = config.original_context * plain / (2 * math.pi)  # within the original context
    low, high = config.low_frequency_factor, config.high_frequency_factor
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return keep * plain + (1 - keep) * plain / config.factor


def _yarn_ramp(config: RopeConfig, rotated: int) -> np.ndarray:
    """1 where a dimension is fully stretched, 0 where it is kept, ``[R / 2]``."""

    def dimension(turns: float) -> float:  # that turns so often within the original context
        return rotated * math.log(config.original_context / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low = max(math.floor(dimension(config.beta_fast)), 0)
    high = min(math.ceil(dimension(config.beta_slow)), rotated - 1)
    return np.clip((np.arange(rotated // 2) - low) / max(high - low, 1e-3), 0, 1)


def rope_angles(config: RopeConfig, head_dim: int, positions: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    """``(cos, sin)``, each ``[..., R / 2]`` for integer ``positions [...]``, in float32 or better."""
    frequencies, factor = rope_frequencies(config, head_dim)
    wide = jnp.promote_types(jnp.float32, dtype)
    angles = positions[..., None].astype(wide) * jnp.asarray(frequencies, wide)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: Array, angles: tuple[Array, Array], interleaved: bool) -> Array:
    """Turns the first R dimensions of each head.

    Args:
      x: ``[B, T, N, H]``.
      angles: cos and sin ``[B or 1, T, R / 2]``.
      interleaved: pairs are ``(2i, 2i + 1)``; else ``(i, i + R / 2)``.

    Returns:
      ``[B, T, N, H]`` in the dtype of ``x``.
    """
    cos, sin = (a[:, :, None, :] for a in angles)
    rotated = 2 * cos.shape[-1]
    turned, rest = x[..., :rotated].astype(cos.dtype), x[..., rotated:]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    pair = first * cos - second * sin, second * cos + first * sin
    turned = jnp.stack(pair, axis=-1).reshape(turned.shape) if interleaved else jnp.concatenate(pair, axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1) if rest.shape[-1] else turned.astype(x.dtype)


def sinusoids(positions: Array, width: int, dtype: jnp.dtype) -> Array:
    """``[..., D]``: sines, then cosines of ``position * 10000 ** (-i / (D / 2 - 1))``, and a 0 if D is odd.

    The order and the exponent are those of Tensor2Tensor and fairseq, not of arXiv 1706.03762, section 3.5.
    """
    half = width // 2
    wide = jnp.promote_types(jnp.float32, dtype)
    frequencies = 10_000.0 ** -(np.arange(half, dtype=np.float64) / (half - 1))
    angles = positions[..., None].astype(wide) * jnp.asarray(frequencies, wide)
    found = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(found, [(0, 0)] * positions.ndim + [(0, width % 2)]).astype(dtype)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slope of each head, ``float64[N]`` (arXiv 2108.12409, section 3 and the authors' code for other than 2^k)."""

    def powers(n: int) -> np.ndarray:
        return 2.0 ** (-8.0 * np.arange(1, n + 1) / n)

    whole = 2 ** math.floor(math.log2(num_heads))
    return np.concatenate([powers(whole), powers(2 * whole)[0::2][: num_heads - whole]])
