"""The solvers by name: the grid, the coefficients, the memory and the step of each, and what each asks of a process."""

import dataclasses
from collections.abc import Callable

import jax

from fmzoo.diffusion import grids, multistep, single_step
from fmzoo.diffusion.estimates import Estimate
from fmzoo.diffusion.process import Process
from fmzoo.errors import InputError, nearest

Array = jax.Array
BETAS, SIGMAS, FLOW = ("linear", "scaled_linear", "cosine"), ("edm",), ("flow",)
Step = Callable[[dict[str, Array], object, Estimate, Array, Array | None], tuple[Array, object]]


@dataclasses.dataclass(frozen=True)
class Solver:
    """A way to walk from noise to data.

    Args:
      grid: which noise levels it visits.
      table: its coefficients, a row an evaluation of the network.
      memory: what it carries before the first step, made from a sample.
      step: ``(row, memory, estimate, x, noise) -> (x, memory)``, pure.
      schedules: the schedules it works with.
      order: of its convergence, for a deterministic one.
      stochastic: whether it draws noise.
      spacing: what "default" stands for: what its class in diffusers does.
      clips: likewise, whether it keeps x0 in range.
      final_alpha_one: likewise, whether its last step ends in the data.
    """

    grid: Callable[[Process, int], grids.Grid]
    table: Callable[[Process, grids.Grid], dict]
    memory: Callable[[Array], object]
    step: Step
    schedules: tuple[str, ...]
    order: int = 1
    stochastic: bool = False
    spacing: str = "linspace"
    clips: bool = False
    final_alpha_one: bool = True


_FIRST_ORDER = (single_step.next_level_table, single_step.no_memory, single_step.next_level)
_ANCESTRAL = (single_step.ancestral_table, single_step.no_memory, single_step.ancestral)
_HEUN = (single_step.heun_table, single_step.heun_memory, single_step.heun)
_DPM = (multistep.dpm_table, multistep.dpm_memory, multistep.dpm)
_DPM_SDE = (multistep.dpm_sde_table, multistep.dpm_memory, multistep.dpm)
_UNIPC = (multistep.unipc_table, multistep.unipc_memory, multistep.unipc)
_PLMS = (multistep.plms_table, multistep.plms_memory, multistep.plms)
_DDPM = (single_step.ddpm_table, single_step.no_memory, single_step.ddpm)

SOLVERS: dict[str, Solver] = {
    "ddpm": Solver(grids.tabled, *_DDPM, BETAS, stochastic=True, spacing="leading", clips=True),
    "ddim": Solver(grids.strided, *_FIRST_ORDER, BETAS, spacing="leading", clips=True),
    "euler": Solver(grids.in_sigma, *_FIRST_ORDER, BETAS + SIGMAS),
    "euler-a": Solver(grids.in_sigma, *_ANCESTRAL, BETAS + SIGMAS, stochastic=True),
    "heun": Solver(grids.in_sigma, *_HEUN, BETAS + SIGMAS, order=2),
    "dpm++2m": Solver(grids.dpm, *_DPM, BETAS + SIGMAS + FLOW, order=2),
    "dpm++2m-sde": Solver(grids.dpm, *_DPM_SDE, BETAS + SIGMAS + FLOW, stochastic=True),
    "unipc": Solver(grids.unipc, *_UNIPC, BETAS + SIGMAS + FLOW, order=2),
    "plms": Solver(grids.strided, *_PLMS, BETAS, order=2, spacing="leading", final_alpha_one=False),
    "flow-euler": Solver(grids.flow, *_FIRST_ORDER, FLOW),
}


def solver_named(name: str, process: Process) -> Solver:
    """The solver of a name.

    Raises:
      InputError: there is none, or it asks for a schedule that the process does not have.
    """
    if name not in SOLVERS:
        raise InputError(f"solver {str(name)[:40]!r} is not known; {nearest(str(name), SOLVERS)}")
    solver = SOLVERS[name]
    if process.schedule not in solver.schedules:
        fitting = ", ".join(other for other, s in SOLVERS.items() if process.schedule in s.schedules)
        raise InputError(
            f"solver {name!r} needs a schedule of {', '.join(solver.schedules)}; this process has "
            f"{process.schedule!r}, which {fitting} can follow"
        )
    return solver


def step(name: str) -> Step:
    """The pure step of a solver: ``(row, memory, estimate, x, noise) -> (x, memory)``.

    Raises:
      InputError: there is no such solver.
    """
    if name not in SOLVERS:
        raise InputError(f"solver {str(name)[:40]!r} is not known; {nearest(str(name), SOLVERS)}")
    return SOLVERS[name].step
