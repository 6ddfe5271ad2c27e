"""How much a time weighs in the loss.

Each weighting is stated for the squared error of x0. As errors of one kind are errors of another times a factor, what
is returned is that weight over the factor of the process's own prediction, to multiply the squared error of `target`:
min-SNR so takes its three forms (``min(SNR, g)`` for x0, ``min(SNR, g) / SNR`` for noise, ``min(SNR, g) / (SNR + 1)``
for v).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from fmzoo.diffusion.process import Process, marginal
from fmzoo.errors import InputError, nearest

Array = jax.Array
Weighting = Literal["none", "snr", "snr_plus_one", "truncated", "min_snr", "p2", "edm"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)
SMALLEST_POWER = 1e-12


def loss_weight(
    process: Process,
    t: Array,
    kind: Weighting = "none",
    *,
    gamma: float | None = None,
    k: float = 1.0,
) -> Array:
    """The weight of the squared error of the network's own prediction at times ``[B]``, ``[B]`` in float32 or better.

    ============== ====================================== =============================================
    kind           weight of the error of x0              source
    ============== ====================================== =============================================
    none           that of the prediction: 1
    snr            ``SNR``: noise, unweighted             arXiv 2006.11239, eq. 14
    snr_plus_one   ``SNR + 1``: v, unweighted             arXiv 2202.00512, section 4
    truncated      ``max(SNR, 1)``                        arXiv 2202.00512, section 4
    min_snr        ``min(SNR, gamma)``, gamma 5           arXiv 2303.09556, section 3.4
    p2             ``SNR / (k + SNR)^gamma``, gamma 1     arXiv 2204.00227, eq. 8
    edm            ``1 / sigma^2 + 1 / sigma_data^2``     arXiv 2206.00364, table 1
    ============== ====================================== =============================================

    Raises:
      InputError: an unknown kind.
    """
    if kind not in WEIGHTINGS:
        raise InputError(f"weighting {str(kind)[:40]!r} is not known; {nearest(str(kind), WEIGHTINGS)}")
    alpha, sigma = marginal(process, t)
    if kind == "none":
        return jnp.ones_like(alpha)
    signal, noise = jnp.maximum(alpha**2, SMALLEST_POWER), jnp.maximum(sigma**2, SMALLEST_POWER)
    data = process.sigma_data**2
    return _weight(kind, signal, noise, data, gamma, k) / _factor(process.prediction, signal, noise, data)


def _weight(kind: str, signal: Array, noise: Array, data: float, gamma: float | None, k: float) -> Array:
    """The weight of an error of x0, times the power of the noise, which keeps both ends of the schedule finite."""
    if kind == "snr":
        return signal
    if kind == "snr_plus_one":
        return signal + noise
    if kind == "truncated":
        return jnp.maximum(signal, noise)
    if kind == "min_snr":
        return jnp.minimum(signal, (5.0 if gamma is None else gamma) * noise)
    if kind == "p2":
        return signal * (noise / (k * noise + signal)) ** (1.0 if gamma is None else gamma)
    return (noise + signal * data) / data


def _factor(prediction: str, signal: Array, noise: Array, data: float) -> Array:
    """The squared error of a prediction over that of x0, times the power of the noise (arXiv 2202.00512, section 4)."""
    if prediction == "epsilon":
        return signal
    if prediction == "sample":
        return noise
    if prediction == "v_prediction":
        return signal + noise
    if prediction == "velocity":
        return (jnp.sqrt(signal) + jnp.sqrt(noise)) ** 2
    return (noise + signal * data) / data
