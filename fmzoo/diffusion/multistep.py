"""Solvers that remember: DPM-Solver++(2M) and its stochastic form, UniPC, PLMS.

The first three are exponential integrators in ``lambda = ln(alpha / sigma)`` over estimates of x0; with ``h`` the width
of a step in lambda all begin with ``(sigma' / sigma) x + alpha' (1 - e^-h) x0``.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion.estimates import Estimate
from fmzoo.diffusion.grids import Grid
from fmzoo.diffusion.process import LARGEST_RATIO, Process

Array = jax.Array
Row = dict[str, Array]
Table = dict[str, np.ndarray]
FEW_STEPS = 15  # below which diffusers ends DPM-Solver++ at first order, wherever it ends
ADAMS_BASHFORTH = np.array(
    [[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0],
     [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
)  # fmt: skip


def widths(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The width of each step in lambda (infinite where it ends in the data) and of the one before it over that."""
    with np.errstate(divide="ignore", invalid="ignore"):
        here = np.log(grid.alpha) - np.log(grid.sigma)
        there = np.log(grid.next_alpha) - np.log(grid.next_sigma)
        width = there - here
        before = np.concatenate([[0.0], width[:-1]])
        ratio = np.where(width > 0, before / width, 0.0)
    return width, ratio


def dpm_table(process: Process, grid: Grid) -> Table:
    """Coefficients of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2, in its midpoint form)."""
    del process
    width, ratio = widths(grid)
    keep = grid.next_sigma / grid.sigma
    return _second_order(grid, keep, -grid.next_alpha * np.expm1(-width), ratio)


def dpm_sde_table(process: Process, grid: Grid) -> Table:
    """Coefficients of its stochastic form, and the deviation of the noise of each step."""
    del process
    width, ratio = widths(grid)
    lost = -np.expm1(-2 * width)
    keep = grid.next_sigma / grid.sigma * np.exp(-width)
    return _second_order(grid, keep, grid.next_alpha * lost, ratio) | {"noisy": grid.next_sigma * np.sqrt(lost)}


def _second_order(grid: Grid, keep: np.ndarray, clean: np.ndarray, ratio: np.ndarray) -> Table:
    """First order at the start, at the end in the data, at the end of a few steps, and where a step has no width."""
    first = ratio <= 0
    first[-1] |= grid.next_sigma[-1] == 0 or grid.total < FEW_STEPS
    change = np.where(first, 0.0, 0.5 * clean / np.where(first, 1.0, ratio))
    return {"keep": keep, "clean": clean, "change": change, "noisy": np.zeros_like(keep)}


def dpm_memory(x: Array) -> Array:
    """The estimate of x0 one step ago."""
    return jnp.zeros_like(x)


def dpm(row: Row, memory: Array, estimate: Estimate, x: Array, noise: Array | None) -> tuple[Array, Array]:
    """An exponential step over x0 extrapolated through the last two estimates."""
    moved = row["keep"] * x + row["clean"] * estimate.x0 + row["change"] * (estimate.x0 - memory)
    return moved if noise is None else moved + row["noisy"] * noise, estimate.x0


def unipc_table(process: Process, grid: Grid) -> Table:
    """Coefficients of UniPC of order 2 with ``B(h) = e^h - 1`` (arXiv 2302.04867, algorithms 1 and 2).

    A row first corrects the step that led to it, then predicts the next one. With ``r`` the width of the step before,
    over that of the corrected step, the corrector's weights solve ``a + b = b_1`` and ``-r a + b = b_2``.
    """
    del process
    width, ratio = widths(grid)
    keep, clean = grid.next_sigma / grid.sigma, -grid.next_alpha * np.expm1(-width)
    first = ratio <= 0
    first[-1] |= len(first) > 0 and grid.next_sigma[-1] == 0
    change = np.where(first, 0.0, 0.5 * clean / np.where(first, 1.0, ratio))
    older, newest = _corrector(width[:-1], np.where(first, 0.0, ratio)[:-1])
    late = lambda column: np.concatenate([[0.0], column])  # noqa: E731
    return {
        "keep": keep, "clean": clean, "change": change, "corrects": late(np.ones(len(keep) - 1)),
        "was_keep": late(keep[:-1]), "was_clean": late(clean[:-1]), "older": late(older), "newest": late(newest),
    }  # fmt: skip


def _corrector(width: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the change over the step before and of the change over the corrected step."""
    moves = width > 0
    h = -np.where(moves, width, 1.0)
    phi = np.expm1(h)
    second = phi / h - 1
    third = second / h - 0.5
    b1, b2 = second / phi, 2 * third / phi
    r = np.where(ratio > 0, ratio, 1.0)
    older = np.where(ratio > 0, (b1 - b2) / (1 + r), 0.0)
    newest = np.where(ratio > 0, b1 - older, 0.5)
    return np.where(moves, older / r, 0.0), np.where(moves, newest, 0.0)


def unipc_memory(x: Array) -> tuple[Array, Array, Array]:
    """The sample where the last step began, and the estimates of x0 there and one step earlier."""
    return jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros_like(x)


def unipc(row: Row, memory: tuple, estimate: Estimate, x: Array, noise: Array | None) -> tuple[Array, tuple]:
    """Corrects the last step with the estimate at its end, at no further evaluation, then predicts the next."""
    del noise
    began, last, earlier = memory
    changes = row["older"] * (last - earlier) + row["newest"] * (estimate.x0 - last)
    corrected = row["was_keep"] * began + row["was_clean"] * (last + changes)
    x = jnp.where(row["corrects"] > 0, corrected, x)
    moved = row["keep"] * x + row["clean"] * estimate.x0 + row["change"] * (estimate.x0 - last)
    return moved, (x, estimate.x0, last)


def plms_table(process: Process, grid: Grid) -> Table:
    """Coefficients of the pseudo linear multistep method (arXiv 2202.09778, eq. 11 to 13) without Runge-Kutta steps.

    The first step is taken twice, Euler's and then with the mean of the slopes at both ends, so there is one row more
    than there are steps. Slopes are of the noise, or of v where the network says v, as in diffusers; what is made of
    v's mean is noise at the point where the step begins, which makes the method one of first order there.
    """
    step = np.arange(len(grid.time))
    rows = np.insert(step, 1, 1) if len(step) > 1 else step
    again = np.arange(len(rows)) == 1
    moves = np.where(again, 0, rows)
    began_alpha = np.where(again, grid.before_alpha[rows], grid.alpha[rows])
    began_sigma = np.where(again, grid.before_sigma[rows], grid.sigma[rows])
    ends_alpha = np.where(again, grid.alpha[rows], grid.next_alpha[moves])
    ends_sigma = np.where(again, grid.sigma[rows], grid.next_sigma[moves])
    began_alpha = np.maximum(began_alpha, 1 / LARGEST_RATIO)  # the method divides by it
    keep = ends_alpha / began_alpha
    return {
        "time": grid.time[rows], "alpha": grid.alpha[rows], "sigma": grid.sigma[rows], "step": moves,
        "again": again.astype(np.float64), "weights": ADAMS_BASHFORTH[np.minimum(np.arange(len(rows)), 4)],
        "keep": keep, "slope": ends_sigma - keep * began_sigma, "began_alpha": began_alpha, "began_sigma": began_sigma,
        "of_v": np.full(len(rows), float(process.prediction == "v_prediction")),
    }  # fmt: skip


def plms_memory(x: Array) -> tuple[Array, Array]:
    """The sample where the first step began, and the last three slopes, newest first."""
    return jnp.zeros_like(x), jnp.zeros((3, *x.shape), x.dtype)


def plms(row: Row, memory: tuple, estimate: Estimate, x: Array, noise: Array | None) -> tuple[Array, tuple]:
    """Moves along the weighted mean of the last four slopes."""
    del noise
    began, slopes = memory
    again, of_v = row["again"] > 0, row["of_v"]
    v = row["alpha"] * estimate.epsilon - row["sigma"] * estimate.x0
    slope = of_v * v + (1 - of_v) * estimate.epsilon
    began = jnp.where(again, began, x)
    history = jnp.concatenate([slope[None], slopes])
    mean = jnp.tensordot(row["weights"], history, axes=1, precision="highest")
    epsilon = of_v * (row["began_alpha"] * mean + row["began_sigma"] * began) + (1 - of_v) * mean
    return row["keep"] * began + row["slope"] * epsilon, (began, jnp.where(again, slopes, history[:3]))
