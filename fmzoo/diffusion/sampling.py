"""Drawing samples: the one loop over a plan, whatever the solver."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from fmzoo.diffusion.estimates import estimate
from fmzoo.diffusion.plans import Plan, initial, plan
from fmzoo.diffusion.process import Process
from fmzoo.diffusion.solvers import SOLVERS
from fmzoo.errors import InputError

Array = jax.Array
Denoise = Callable[[Array, Array], Array]


def sample(
    denoise: Denoise,
    process: Process,
    solver: str,
    steps: int | Sequence[float],
    latents: Array,
    keys: Array | None = None,
    *,
    on_step: Callable[[Array, Array], None] | None = None,
    constrain: Callable[[Array, dict[str, Array]], Array] | None = None,
    start: int = 0,
) -> Array:
    """Walks from noise to data; ``[B, ...]`` in float32 or better. Can be jitted with the arrays as arguments.

    Args:
      denoise: the network, already guided: ``(input [B, ...], time [B]) -> output [B, ...]``, of any dtype.
      process: that the network was trained for.
      solver: one of `SOLVERS`.
      steps: how many, or the noise levels to visit; see `plan`.
      latents: unit noise ``[B, ...]``, which is scaled here; with a `start`, the sample at that step (`noised`).
      keys: a key a row, for a stochastic solver: the noise of step i is drawn from ``fold_in(key, i)``, so a row's
        noise does not depend on its batch.
      on_step: called on the host, in order, with the number of the step and the estimate of x0, after each evaluation.
      constrain: a pure function of the moved sample and the row of the plan, applied after each step.
      start: steps to skip.

    Raises:
      InputError: as `plan` does, or a stochastic solver without keys.
    """
    walk = plan(process, solver, steps, start)
    wide = jnp.promote_types(jnp.float32, latents.dtype)
    x = latents.astype(wide) if start else initial(walk, latents)
    return follow(denoise, walk, x, keys, on_step=on_step, constrain=constrain)


def follow(
    denoise: Denoise,
    walk: Plan,
    x: Array,
    keys: Array | None = None,
    *,
    on_step: Callable[[Array, Array], None] | None = None,
    constrain: Callable[[Array, dict[str, Array]], Array] | None = None,
) -> Array:
    """Walks a plan from a sample ``[B, ...]`` at its first noise level; arguments as in `sample`."""
    solver = SOLVERS[walk.solver]
    if solver.stochastic and keys is None:
        raise InputError(f"solver {walk.solver!r} draws noise; keys, one a row, are needed")
    rows = {name: column if name == "step" else jnp.asarray(column, x.dtype) for name, column in walk.rows.items()}

    def body(carried: tuple, row: dict[str, Array]) -> tuple[tuple, None]:
        x, memory = carried
        output = denoise(x * row["input_scale"], jnp.full(x.shape[:1], row["time"]))
        said = estimate(walk.process, output, x, row["alpha"], row["sigma"])
        if on_step is not None:
            jax.debug.callback(on_step, row["step"], said.x0, ordered=True)
        noise = _noise(keys, row["step"], x) if solver.stochastic else None
        x, memory = solver.step(row, memory, said, x, noise)
        return (x if constrain is None else constrain(x, row), memory), None

    (x, _), _ = jax.lax.scan(body, (x, solver.memory(x)), rows)
    return x


def _noise(keys: Array, step: Array, x: Array) -> Array:
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, step), x.shape[1:], x.dtype)  # noqa: E731
    return jax.vmap(draw)(keys)
