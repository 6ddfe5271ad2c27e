"""Solvers that look at one point: DDPM, DDIM and Euler, Euler ancestral, Heun.

Each is a table of coefficients in NumPy float64, made once, and a step that reads a row of it. All of them move
``x = alpha x0 + sigma epsilon`` in the process's own scale, not diffusers' ``x / alpha``.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion.estimates import Estimate
from fmzoo.diffusion.grids import Grid
from fmzoo.diffusion.process import Process

Array = jax.Array
Row = dict[str, Array]
Table = dict[str, np.ndarray]
SMALLEST_VARIANCE = 1e-20
LARGEST_FALL = 100.0  # of sigma / alpha, from above as much, in a step that Heun's method corrects


def no_memory(x: Array) -> tuple:
    """What a solver without memory carries."""
    del x
    return ()


def next_level_table(process: Process, grid: Grid) -> Table:
    """The levels where each step ends."""
    del process
    return {"next_alpha": grid.next_alpha, "next_sigma": grid.next_sigma}


def next_level(row: Row, memory: tuple, estimate: Estimate, x: Array, noise: Array | None) -> tuple[Array, tuple]:
    """``alpha' x0 + sigma' epsilon``: DDIM with eta 0 (arXiv 2010.02502, eq. 12).

    In ``x / alpha`` it is Euler's step in sigma (arXiv 2206.00364, algorithm 1), and for a flow
    Euler's step in time, ``x + (t' - t) velocity`` (arXiv 2209.03003, section 2.1).
    """
    del x, noise
    return row["next_alpha"] * estimate.x0 + row["next_sigma"] * estimate.epsilon, memory


def ddpm_table(process: Process, grid: Grid) -> Table:
    """The posterior of a step (arXiv 2006.11239, eq. 7), and the bounds of the logarithm of its variance."""
    ratio = (grid.alpha / grid.next_alpha) ** 2
    noise, next_noise = grid.sigma**2, grid.next_sigma**2
    small = np.log(np.maximum(next_noise / noise * (1 - ratio), SMALLEST_VARIANCE))
    large = np.log(np.maximum(1 - ratio, SMALLEST_VARIANCE))
    return {
        "clean": grid.next_alpha * (1 - ratio) / noise,
        "keep": np.sqrt(ratio) * next_noise / noise,
        "low": small if process.learned_variance or process.variance == "small" else large,
        "high": large,
        "noisy": (grid.time > 0).astype(np.float64),
    }


def ddpm(row: Row, memory: tuple, estimate: Estimate, x: Array, noise: Array) -> tuple[Array, tuple]:
    """Draws from the posterior of ``x_{t-1}`` given the estimate of x0 (arXiv 2006.11239, algorithm 2).

    A learned variance lies between its bounds by the network's share (arXiv 2102.09672, eq. 15).
    """
    share = 0.0 if estimate.share is None else estimate.share
    deviation = jnp.exp(0.5 * (share * row["high"] + (1 - share) * row["low"]))
    mean = row["clean"] * estimate.x0 + row["keep"] * x
    return mean + row["noisy"] * deviation * noise, memory


def ancestral_table(process: Process, grid: Grid) -> Table:
    """How far down Euler goes, and how much noise brings it back up (k-diffusion, `get_ancestral_step`)."""
    del process
    here, there = grid.sigma / grid.alpha, grid.next_sigma / grid.next_alpha
    up = there * np.sqrt(np.maximum(here**2 - there**2, 0)) / here
    down = np.sqrt(np.maximum(there**2 - up**2, 0))
    return {"next_alpha": grid.next_alpha, "down": grid.next_alpha * down, "up": grid.next_alpha * up}


def ancestral(row: Row, memory: tuple, estimate: Estimate, x: Array, noise: Array) -> tuple[Array, tuple]:
    """Euler's step to a lower level than the next, then noise up to it."""
    del x
    return row["next_alpha"] * estimate.x0 + row["down"] * estimate.epsilon + row["up"] * noise, memory


def heun_table(process: Process, grid: Grid) -> Table:
    """Two rows a step, the second of them at its end; one where it ends in the data or falls too far out of noise.

    In ``x / alpha`` the correction is half of the fall ``sigma / sigma' - 1`` times the change of the estimate of x0.
    The cosine schedule ends at ``sigma / alpha`` of 20,291; ten steps spaced to its end begin with a fall to 6.4, and
    half of 3,187 drowns the sample: diffusers, which corrects it, draws noise. Euler's step is left there, which is
    exact where x0 does not change, as it hardly does where no signal is.
    """
    del process
    here, there = grid.sigma / grid.alpha, grid.next_sigma / grid.next_alpha
    predict = {
        "time": grid.time, "alpha": grid.alpha, "sigma": grid.sigma, "step": np.arange(len(here)),
        "corrects": np.zeros_like(here), "width": there - here, "next_alpha": grid.next_alpha,
    }  # fmt: skip
    correct = predict | {
        "time": grid.next_time, "alpha": grid.next_alpha, "sigma": grid.next_sigma, "corrects": np.ones_like(here),
    }  # fmt: skip
    both = {name: np.stack([predict[name], correct[name]], axis=1).reshape(-1) for name in predict}
    far = np.repeat(here > LARGEST_FALL * np.maximum(there, 1), 2) & (both["corrects"] > 0)
    evaluated = (both["sigma"] > 0) & ~far
    return {name: column[evaluated] for name, column in both.items()}


def heun_memory(x: Array) -> tuple[Array, Array]:
    """The sample where the step began, over its alpha, and the slope there."""
    return jnp.zeros_like(x), jnp.zeros_like(x)


def heun(row: Row, memory: tuple, estimate: Estimate, x: Array, noise: Array | None) -> tuple[Array, tuple]:
    """Euler in sigma, then the trapezoid with the slope at its end (arXiv 2206.00364, algorithm 1)."""
    del noise
    began, slope = memory
    corrects = row["corrects"] > 0
    began = jnp.where(corrects, began, x / row["alpha"])
    mean = jnp.where(corrects, (slope + estimate.epsilon) / 2, estimate.epsilon)
    return row["next_alpha"] * (began + row["width"] * mean), (began, estimate.epsilon)
