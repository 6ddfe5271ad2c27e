"""Noise schedules as tables in NumPy float64: the betas of the papers, zero terminal SNR, Karras' sigmas, the shift."""

import math
from collections.abc import Callable

import numpy as np

LARGEST_BETA = 0.999


def linear(steps: int, start: float, end: float) -> np.ndarray:
    """Betas that grow linearly (arXiv 2006.11239, section 4: 1e-4 to 0.02 over 1000 steps)."""
    return np.linspace(start, end, steps)


def scaled_linear(steps: int, start: float, end: float) -> np.ndarray:
    """Betas whose roots grow linearly, as in latent diffusion (Stable Diffusion: 0.00085 to 0.012)."""
    return np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2


def cosine(steps: int, start: float, end: float) -> np.ndarray:
    """Betas of a squared-cosine signal level, at most 0.999 (arXiv 2102.09672, eq. 17); start and end are not used."""
    del start, end
    times = np.arange(steps + 1) / steps
    signal = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - signal[1:] / signal[:-1], LARGEST_BETA)


BETAS: dict[str, Callable[[int, float, float], np.ndarray]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
}


def signal_levels(betas: np.ndarray, zero_terminal_snr: bool = False) -> np.ndarray:
    """``sqrt(alpha_bar)`` of each step, the last one moved to exactly 0 if asked (arXiv 2305.08891, algorithm 1).

    ``1 - beta`` is rounded to float32, as it is where published networks were trained: that is what they know, and at
    the end of the cosine schedule, where beta is 0.999, it makes a difference.
    """
    kept = np.float32(1) - betas.astype(np.float32)
    levels = np.sqrt(np.cumprod(kept.astype(np.float64)))
    if not zero_terminal_snr:
        return levels
    return (levels - levels[-1]) * levels[0] / (levels[0] - levels[-1])


def karras(steps: int, smallest: float, largest: float, rho: float = 7.0) -> np.ndarray:
    """Sigmas from the largest to the smallest, evenly spaced in ``sigma^(1/rho)`` (arXiv 2206.00364, eq. 5)."""
    ramp = np.linspace(0, 1, steps)
    return (largest ** (1 / rho) + ramp * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho


def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    """A flow's noise level moved to a higher resolution: ``s t / (1 + (s - 1) t)`` (arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)
