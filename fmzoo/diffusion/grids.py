"""Which times a solver visits, and the levels of signal and noise there: NumPy float64.

The rules are those of the schedulers of diffusers, so that a loaded system draws what it draws there. They fall into
three: solvers that step through the table of betas, solvers in sigma, and multistep solvers with one point more.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fmzoo.diffusion import schedules
from fmzoo.diffusion.process import Process, levels, ratios
from fmzoo.errors import InputError

Array = np.ndarray
ROUNDING = 1e-6  # the largest of Karras' sigmas comes back this much too small, and its time's whole part one less


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where a solver evaluates the network and where each step leads: float64 ``[N]``, step by step.

    Args:
      time: what the network is told.
      alpha: the level of the signal.
      sigma: the level of the noise.
      next_time: the time where the step ends, where it has one.
      next_alpha: the level of the signal there.
      next_sigma: the level of the noise there.
      before_alpha: the level of the signal from which a step of the usual width leads here.
      before_sigma: the level of the noise there.
      total: the number of steps, with those that were skipped.
      scale: what unit noise is multiplied by to be the first sample.
    """

    time: Array
    alpha: Array
    sigma: Array
    next_time: Array
    next_alpha: Array
    next_sigma: Array
    before_alpha: Array
    before_sigma: Array
    total: int
    scale: float

    def skip(self, start: int) -> "Grid":
        """The grid without its first steps."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Grid(**{name: a[start:] if isinstance(a, np.ndarray) else a for name, a in arrays.items()})


def given(process: Process, ratio: Sequence[float]) -> Grid:
    """A grid of these noise levels ``sigma / alpha``, falling, one more than there are steps; the last may be 0."""
    ratio = np.asarray(ratio, np.float64)
    falls = ratio.ndim == 1 and len(ratio) >= 2 and np.isfinite(ratio).all() and (np.diff(ratio) < 0).all()
    if not falls or ratio[-1] < 0:
        raise InputError("steps, where they are noise levels sigma / alpha, must be at least two falling numbers >= 0")
    alpha, sigma = _levels_of(process, ratio)
    return _chain(_time_of(process, ratio), alpha, sigma, float(np.hypot(alpha[0], sigma[0])))


def tabled(process: Process, steps: int) -> Grid:
    """DDPM's: steps of the table of betas, from each to the next, the last to the data."""
    time = _spaced(process, steps)
    alpha, sigma = _tabled(process, time)
    return _chain(np.append(time, 0), np.append(alpha, 1.0), np.append(sigma, 0.0), 1.0)


def strided(process: Process, steps: int) -> Grid:
    """DDIM's and PLMS's: steps of the table of betas, each ``num_train_timesteps // steps`` wide."""
    time, width = _spaced(process, steps), process.num_train_timesteps // steps
    last = process.num_train_timesteps - 1
    end = time - width
    alpha, sigma = _tabled(process, time)
    next_alpha, next_sigma = _tabled(process, np.maximum(end, 0))
    final = 1.0 if process.final_alpha_one else levels(process)[0]
    next_alpha = np.where(end >= 0, next_alpha, final)
    next_sigma = np.where(end >= 0, next_sigma, np.sqrt(1 - final**2))
    before = _tabled(process, np.minimum(time + width, last))
    return Grid(time, alpha, sigma, np.maximum(end, 0), next_alpha, next_sigma, *before, total=len(time), scale=1.0)


def in_sigma(process: Process, steps: int) -> Grid:
    """Euler's and Heun's: sigmas interpolated in the table of betas, or EDM's, then 0."""
    if process.schedule == "edm":
        return _edm(process, steps)
    table = ratios(process)
    time = _spaced(process, steps, whole=False)
    ratio = np.interp(time, np.arange(len(table)), table)
    if process.karras:
        ratio = schedules.karras(len(ratio), ratio[-1], ratio[0])
        time = _nearest_in_log(ratio, table)
    alpha, sigma = _levels_of(process, ratio)
    scale = 1.0 if process.spacing == "leading" else float(sigma[0])
    return _chain(np.append(time, 0), np.append(alpha, 1.0), np.append(sigma, 0.0), scale)


def dpm(process: Process, steps: int) -> Grid:
    """DPM-Solver++'s."""
    if process.schedule == "flow":
        ramp = 1 - np.linspace(1, 1 / process.num_train_timesteps, steps + 1)
        return _multistep_flow(process, schedules.shifted(ramp, process.shift)[::-1][:-1])
    return _multistep(process, steps, rounded=process.schedule != "cosine")


def unipc(process: Process, steps: int) -> Grid:
    """UniPC's."""
    if process.schedule == "flow":
        ramp = np.linspace(1, 1 / process.num_train_timesteps, steps + 1)[:-1]
        sigma = schedules.shifted(ramp, process.shift)
        return _multistep_flow(process, np.minimum(sigma, 1 - 1e-6))
    return _multistep(process, steps, rounded=True)


def flow(process: Process, steps: int) -> Grid:
    """A flow's: even times between its ends, which its shift moved, shifted."""
    least = schedules.shifted(np.float64(1 / process.num_train_timesteps), process.shift)
    sigma = schedules.shifted(np.linspace(1, least, steps), process.shift)
    sigma = np.append(sigma, 0.0)
    return _chain(sigma * process.num_train_timesteps, 1 - sigma, sigma, 1.0)


def _multistep(process: Process, steps: int, rounded: bool) -> Grid:
    if process.schedule == "edm":
        return _edm(process, steps)
    table = ratios(process)
    if process.karras:
        ratio = schedules.karras(steps, table[0], table[-1])
        time = _nearest_in_log(ratio, table)
        time = np.round(time) if rounded else np.trunc(np.maximum(time - ROUNDING, 0))
    else:
        time = _spaced(process, steps, more=1)
        ratio = np.interp(time, np.arange(len(table)), table)
    alpha, sigma = _levels_of(process, ratio)
    return _chain(np.append(time, 0), np.append(alpha, 1.0), np.append(sigma, 0.0), 1.0)


def _multistep_flow(process: Process, sigma: Array) -> Grid:
    """Rounded to float32: where almost no signal is left, ``ln(alpha)`` hangs on the last bit of sigma."""
    sigma = np.append(sigma, 0.0)
    time = np.trunc(sigma * process.num_train_timesteps)
    sigma = sigma.astype(np.float32).astype(np.float64)
    return _chain(time, 1 - sigma, sigma, 1.0)


def _edm(process: Process, steps: int) -> Grid:
    sigma = np.append(schedules.karras(steps, process.sigma_min, process.sigma_max, process.rho), 0.0)
    time = np.log(np.where(sigma > 0, sigma, process.sigma_min)) / 4
    return _chain(time, np.ones_like(sigma), sigma, float(np.hypot(1, process.sigma_max)))


def _spaced(process: Process, steps: int, *, whole: bool = True, more: int = 0) -> Array:
    """Times of the table of betas, falling.

    Args:
      process: of a schedule of betas.
      steps: how many.
      whole: rounds times that are spaced evenly.
      more: points that are spaced like the others at the end and left out.
    """
    count, last = process.num_train_timesteps, process.num_train_timesteps - 1
    if process.spacing == "linspace":
        time = np.linspace(0, last, steps + more)
        time = np.round(time) if whole else time.astype(np.float32).astype(np.float64)
    elif process.spacing == "leading":
        time = np.arange(steps + more) * max(count // (steps + more), 1.0) + process.steps_offset
    else:
        return np.clip(np.round(np.arange(count, 0, -count / steps)) - 1, 0, last)
    return np.minimum(time[::-1][: steps or None], last)


def _tabled(process: Process, time: Array) -> tuple[Array, Array]:
    alpha = levels(process)[time.astype(np.int64)]
    return alpha, np.sqrt(1 - alpha**2)


def _levels_of(process: Process, ratio: Array) -> tuple[Array, Array]:
    if process.schedule == "edm":
        return np.ones_like(ratio), ratio
    if process.schedule == "flow":
        return 1 / (1 + ratio), ratio / (1 + ratio)
    alpha = 1 / np.sqrt(1 + ratio**2)
    return alpha, ratio * alpha


def _time_of(process: Process, ratio: Array) -> Array:
    """The inverse of `process.marginal`."""
    if process.schedule == "edm":
        return np.log(np.where(ratio > 0, ratio, process.sigma_min)) / 4
    if process.schedule == "flow":
        return process.num_train_timesteps * ratio / (1 + ratio)
    table = ratios(process)
    return np.interp(ratio, table, np.arange(len(table)))


def _nearest_in_log(ratio: Array, table: Array) -> Array:
    return np.interp(np.log(ratio), np.log(table), np.arange(len(table)))


def _chain(time: Array, alpha: Array, sigma: Array, scale: float) -> Grid:
    """A grid in which each step ends where the next begins, from one point more than there are steps."""
    before = np.concatenate([alpha[:1], alpha[:-2]]), np.concatenate([sigma[:1], sigma[:-2]])
    return Grid(
        time[:-1], alpha[:-1], sigma[:-1], time[1:], alpha[1:], sigma[1:], *before, total=len(time) - 1, scale=scale
    )
