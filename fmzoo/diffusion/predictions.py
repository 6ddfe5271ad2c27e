"""What a network may predict, and how each follows from any other.

With ``x = alpha x0 + sigma epsilon`` known, a prediction is one more linear combination ``p x0 + q epsilon``; two such
equations give ``x0`` and ``epsilon``, and with them every other prediction.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Array = jax.Array
Prediction = Literal["epsilon", "sample", "v_prediction", "velocity", "edm"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
SMALLEST = 1e-8  # a divisor: where the noise or the signal is gone, a conversion that needs it stays finite


def direction(kind: str, alpha: Array, sigma: Array, sigma_data: float = 0.5) -> tuple[Array, Array]:
    """The ``p`` and ``q`` of a prediction ``p x0 + q epsilon``.

    ========== ==================================================================================================
    epsilon    the noise (arXiv 2006.11239, eq. 14)
    sample     the clean sample
    v          ``(alpha epsilon - sigma x0) / sqrt(alpha^2 + sigma^2)`` (arXiv 2202.00512, appendix D)
    velocity   ``epsilon - x0``, so that time runs from the data to the noise (arXiv 2209.03003, eq. 1)
    edm        ``F`` of ``x0 = c_skip x + c_out F``, for data of deviation `sigma_data` (arXiv 2206.00364, eq. 7)
    ========== ==================================================================================================
    """
    zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
    if kind == "epsilon":
        return zero, one
    if kind == "sample":
        return one, zero
    if kind == "v_prediction":
        norm = jnp.sqrt(alpha**2 + sigma**2)
        return -sigma / norm, alpha / norm
    if kind == "velocity":
        return -one, one
    norm = jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)
    return sigma / (sigma_data * norm), -alpha * sigma_data / norm


def _divisor(x: Array) -> Array:
    return jnp.where(jnp.abs(x) < SMALLEST, jnp.where(x < 0, -SMALLEST, SMALLEST).astype(x.dtype), x)


def _over(levels: Array, x: Array) -> Array:
    """Levels ``[B]`` or a scalar, shaped to multiply ``[B, ...]``, in float32 or better."""
    levels = jnp.asarray(levels, jnp.promote_types(jnp.float32, jnp.result_type(levels, x)))
    return levels.reshape(levels.shape + (1,) * (x.ndim - levels.ndim)) if levels.ndim else levels


def parts(output: Array, kind: str, x: Array, alpha: Array, sigma: Array, sigma_data: float = 0.5) -> tuple:
    """The clean sample and the noise that a prediction stands for, both ``[B, ...]`` in float32 or better.

    Args:
      output: the prediction, ``[B, ...]``.
      kind: one of `PREDICTIONS`.
      x: the noisy sample ``alpha x0 + sigma epsilon``, ``[B, ...]``.
      alpha: the level of the signal, ``[B]`` or a scalar.
      sigma: the level of the noise, likewise.
      sigma_data: the deviation of the data, which only ``edm`` reads.
    """
    alpha, sigma = _over(alpha, x), _over(sigma, x)
    output, x = output.astype(alpha.dtype), x.astype(alpha.dtype)
    p, q = direction(kind, alpha, sigma, sigma_data)
    determinant = _divisor(alpha * q - sigma * p)
    x0 = output if kind == "sample" else (q * x - sigma * output) / determinant
    epsilon = output if kind == "epsilon" else (alpha * output - p * x) / determinant
    return x0, epsilon


def combined(x0: Array, epsilon: Array, kind: str, alpha: Array, sigma: Array, sigma_data: float = 0.5) -> Array:
    """The prediction of a kind that stands for this clean sample and this noise, ``[B, ...]`` in float32 or better."""
    alpha, sigma = _over(alpha, x0), _over(sigma, x0)
    p, q = direction(kind, alpha, sigma, sigma_data)
    return p * x0.astype(alpha.dtype) + q * epsilon.astype(alpha.dtype)


def convert(output: Array, frm: str, to: str, x_t: Array, alpha: Array, sigma: Array, sigma_data: float = 0.5) -> Array:
    """The prediction of one kind as another, ``[B, ...]`` in float32 or better; arguments as in `parts`."""
    x0, epsilon = parts(output, frm, x_t, alpha, sigma, sigma_data)
    return combined(x0, epsilon, to, alpha, sigma, sigma_data)
