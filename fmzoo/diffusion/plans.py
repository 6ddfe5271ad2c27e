"""A solver's walk as tables, made once in NumPy float64."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion import grids
from fmzoo.diffusion.process import Process
from fmzoo.diffusion.solvers import Solver, solver_named
from fmzoo.errors import InputError

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a walk before the network is asked: a pytree, static but for its arrays.

    Args:
      rows: by name, float64 arrays whose first axis counts evaluations of the network: ``time`` (what the network is
        told), ``alpha`` and ``sigma`` (the levels there), ``input_scale`` (of the sample for the network), ``step``
        (which step the evaluation belongs to) and the solver's coefficients.
      scale: what unit noise is multiplied by to be the first sample.
      process: that is followed, with no choice left open.
      solver: by name.
    """

    rows: dict[str, np.ndarray]
    scale: float
    process: Process = dataclasses.field(metadata={"static": True})
    solver: str = dataclasses.field(metadata={"static": True})

    def __len__(self) -> int:
        """How often the network is evaluated."""
        return len(self.rows["time"])


def plan(process: Process, solver: str, steps: int | Sequence[float], start: int = 0) -> Plan:
    """Makes the tables of a walk.

    Args:
      process: that the network was trained for.
      solver: one of `SOLVERS`.
      steps: how many, 1 to `num_train_timesteps`; or the noise levels ``sigma / alpha`` to visit, falling, one more
        than there are steps. The walk ends at the last of them, which need not be 0.
      start: steps to skip, for a walk that begins in a noised picture.

    Raises:
      InputError: an unknown solver, one that asks for another schedule, steps or a start out of range.
    """
    chosen = solver_named(solver, process)
    process = resolved(process, chosen)
    if isinstance(steps, int | np.integer) and not isinstance(steps, bool):
        if not 1 <= steps <= process.num_train_timesteps:
            raise InputError(f"steps is {steps}; 1 to num_train_timesteps, {process.num_train_timesteps}, is needed")
        grid = chosen.grid(process, int(steps))
    elif isinstance(steps, Sequence | np.ndarray) and not isinstance(steps, str):
        grid = grids.given(process, steps)
    else:
        raise InputError(f"steps is {str(steps)[:40]!r}; a whole number or falling noise levels are needed")
    if not 0 <= start < grid.total:
        raise InputError(f"start is {start}; 0 to {grid.total - 1} is needed with {grid.total} steps")
    return Plan(_rows(process, chosen, grid.skip(start), start), grid.scale, process, solver)


def resolved(process: Process, solver: Solver) -> Process:
    """The process with each "default" replaced by what the solver does."""
    choices = {
        "spacing": solver.spacing,
        "threshold": "static" if solver.clips else None,
        "final_alpha_one": solver.final_alpha_one,
    }
    open_ones = {name: choice for name, choice in choices.items() if getattr(process, name) == "default"}
    return dataclasses.replace(process, **open_ones)


def initial(plan: Plan, noise: Array) -> Array:
    """The first sample of unit noise ``[B, ...]``, in float32 or better.

    In the process's own scale; over its alpha it is diffusers' latents times `init_noise_sigma`.
    """
    return noise.astype(jnp.promote_types(jnp.float32, noise.dtype)) * plan.scale


def noised(plan: Plan, x0: Array, noise: Array) -> Array:
    """A clean sample ``[B, ...]`` with the noise of the plan's first row, where the walk then begins."""
    wide = jnp.promote_types(jnp.float32, x0.dtype)
    alpha, sigma = (jnp.asarray(plan.rows[name][0], wide) for name in ("alpha", "sigma"))
    return alpha * x0 + sigma * noise


def _rows(process: Process, solver: Solver, grid: grids.Grid, start: int) -> dict[str, np.ndarray]:
    rows = {"time": grid.time, "alpha": grid.alpha, "sigma": grid.sigma, "step": np.arange(len(grid.time))}
    rows |= solver.table(process, grid)
    is_edm = process.schedule == "edm"
    rows["input_scale"] = 1 / np.hypot(rows["sigma"], process.sigma_data) if is_edm else np.ones_like(rows["sigma"])
    step = (rows["step"] + start).astype(np.int32)
    return {name: column.astype(np.float64) for name, column in rows.items()} | {"step": step}
