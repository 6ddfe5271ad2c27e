"""What a network's output says of a noisy sample: x0 and noise, kept in range."""

from typing import NamedTuple

import jax

from fmzoo.diffusion.guidance import in_range
from fmzoo.diffusion.predictions import SMALLEST, parts
from fmzoo.diffusion.process import Process, split_variance

Array = jax.Array


class Estimate(NamedTuple):
    """Two estimates that agree, ``x = alpha x0 + sigma epsilon``, and the share of a learned variance.

    Args:
      x0: the clean sample ``[B, ...]``.
      epsilon: the noise ``[B, ...]``.
      share: where the log-variance lies between its bounds, in [0, 1], ``[B, ...]``; None if it is not learned.
    """

    x0: Array
    epsilon: Array
    share: Array | None = None


def estimate(process: Process, output: Array, x: Array, alpha: Array, sigma: Array) -> Estimate:
    """Reads the output of a network at one noise level, in the dtype of the levels.

    A threshold moves x0, and the noise with it, so that the two still agree (arXiv 2205.11487, appendix; DDIMScheduler
    with `use_clipped_model_output`).

    Args:
      process: of the network.
      output: of the network, already guided, ``[B, ..., C]`` or, with a learned variance, ``[B, ..., 2C]``.
      x: the noisy sample ``[B, ..., C]``, in the process's own scale.
      alpha: the level of the signal, a scalar or ``[B]``.
      sigma: the level of the noise, likewise.
    """
    prediction, share = split_variance(process, output)
    x0, epsilon = parts(prediction, process.prediction, x, alpha, sigma, process.sigma_data)
    if process.threshold is not None:
        x0 = in_range(process, x0)
        epsilon = (x - alpha * x0) / jax.numpy.maximum(sigma, SMALLEST)
    return Estimate(x0, epsilon, None if share is None else share.astype(x0.dtype))
