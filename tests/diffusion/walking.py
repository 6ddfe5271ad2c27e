"""A plan followed row by row, with one compilation whatever its length: what `follow` does in a scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion import SOLVERS, estimate


@functools.partial(jax.jit, static_argnames=("denoise", "process", "solver"))
def one_step(denoise, process, solver, row, memory, x, noise):
    output = denoise(x * row["input_scale"], jnp.full(x.shape[:1], row["time"]))
    said = estimate(process, output, x, row["alpha"], row["sigma"])
    return SOLVERS[solver].step(row, memory, said, x, noise)


def walk(denoise, plan, x, noise_of=None):
    """The end of a plan from a sample at its first level; `noise_of` gives the noise of a step."""
    memory = SOLVERS[plan.solver].memory(x)
    rows = {name: np.asarray(column, x.dtype) for name, column in plan.rows.items()}
    for i in range(len(plan)):
        row = {name: column[i] for name, column in rows.items()}
        noise = jnp.asarray(noise_of(plan.rows["step"][i]), x.dtype) if SOLVERS[plan.solver].stochastic else None
        x, memory = one_step(denoise, plan.process, plan.solver, row, memory, x, noise)
    return x
