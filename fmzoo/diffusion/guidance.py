"""Guidance without a classifier, and keeping estimates of x0 in range.

Two scales are in use. In Ho and Salimans' (arXiv 2207.12598, eq. 6) ``w'`` extrapolates from the conditional output,
``(1 + w') conditional - w' unconditional``, and 0 is none. In Stable Diffusion's and Imagen's ``w`` extrapolates from
the unconditional one, and 1 is none. This module takes the second: ``w = 1 + w'`` (`scale_of_ho_and_salimans`).
"""

import jax
import jax.numpy as jnp

from fmzoo.diffusion.process import Process

Array = jax.Array


def scale_of_ho_and_salimans(weight: float) -> float:
    """Our scale ``w`` for their ``w'`` (arXiv 2207.12598, eq. 6)."""
    return 1 + weight


def guide(conditional: Array, unconditional: Array, scale: float | Array, rescale: float = 0.0) -> Array:
    """``unconditional + scale (conditional - unconditional)``, ``[B, ...]`` in float32 or better.

    Args:
      conditional: the network's output with its condition, ``[B, ...]``.
      unconditional: without it, or with a negative prompt.
      scale: ``w``, a number or one a row ``[B]``; 1 gives the conditional output.
      rescale: the share of the result that is scaled back to the conditional output's deviation, by row
        (arXiv 2305.08891, eq. 14 to 16; 0.7 there).
    """
    wide = jnp.promote_types(jnp.float32, conditional.dtype)
    conditional, unconditional = conditional.astype(wide), unconditional.astype(wide)
    scale = jnp.asarray(scale, wide)
    scale = scale.reshape(scale.shape + (1,) * (conditional.ndim - scale.ndim)) if scale.ndim else scale
    guided = unconditional + scale * (conditional - unconditional)
    if rescale == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    deviation = guided.std(axis=axes, keepdims=True, ddof=1)
    back = conditional.std(axis=axes, keepdims=True, ddof=1) / jnp.maximum(deviation, jnp.finfo(wide).tiny)
    return guided * (rescale * back + 1 - rescale)


def interval_scale(scale: float | Array, ratio: Array, low: float, high: float) -> Array:
    """The scale at noise levels ``low < sigma / alpha <= high``, and 1 outside them (arXiv 2404.07724, eq. 5)."""
    return jnp.where((ratio > low) & (ratio <= high), scale, 1.0)


def static_threshold(x0: Array, clip_range: float = 1.0) -> Array:
    """Clips to ``[-clip_range, clip_range]``."""
    return jnp.clip(x0, -clip_range, clip_range)


def dynamic_threshold(x0: Array, percentile: float = 0.995, largest: float | None = None) -> Array:
    """Clips each row to its own percentile of absolute values and divides by it (arXiv 2205.11487, section 2.3).

    Args:
      x0: ``[B, ...]``, of data in [-1, 1].
      percentile: the share of values that is not clipped.
      largest: the largest divisor; the smallest is 1.
    """
    values = jnp.abs(x0.reshape(x0.shape[0], -1))
    scale = jnp.clip(jnp.quantile(values, percentile, axis=1), 1.0, largest)
    scale = scale.reshape((-1,) + (1,) * (x0.ndim - 1))
    return jnp.clip(x0, -scale, scale) / scale


def in_range(process: Process, x0: Array) -> Array:
    """An estimate of x0 as the process's threshold leaves it."""
    if process.threshold == "static":
        return static_threshold(x0, process.clip_range)
    if process.threshold == "dynamic":
        return dynamic_threshold(x0, process.threshold_percentile, process.threshold_max)
    return x0
