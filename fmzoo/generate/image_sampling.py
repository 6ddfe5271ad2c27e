"""The one compiled function that draws: guidance, inpainting and previews around a solver's scan over noise levels."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmzoo import diffusion
from fmzoo.diffusion import Process
from fmzoo.models.denoiser import denoise

Array = jax.Array
Conditions = dict[str, Array]
Listener = Callable[[np.ndarray, np.ndarray], None]  # (noisy sample, estimate of x0), both [B, h, w, c], in order
_LISTENERS: dict[int, Listener] = {}
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a compilation is for; everything else is an array.

    Attributes:
      module: the denoiser.
      process: what it was trained on.
      solver: a name of `fmzoo.diffusion.SOLVERS`.
      steps: of the solver.
      start: the step to begin with; those before are left out.
      guided: run the denoiser twice and extrapolate.
      rescale: of `fmzoo.diffusion.guide`.
      heard: tell a listener of every evaluation.
    """

    module: nn.Module
    process: Process
    solver: str
    steps: int
    start: int = 0
    guided: bool = True
    rescale: float = 0.0
    heard: bool = False


class Rows(dict):
    """Arrays with a row for each picture.

    ``noise [B, h, w, c]``; ``keys [B]``; ``conditional`` and ``unconditional``, conditions by name; ``clean``, what to
    begin with; ``mask``, 1 where it is to be drawn anew; or ``extra``, channels behind the sample's for a denoiser that
    paints in.
    """


jax.tree_util.register_pytree_node(
    Rows, lambda rows: (tuple(rows.values()), tuple(rows)), lambda names, values: Rows(zip(names, values, strict=True))
)


@functools.partial(jax.jit, static_argnums=0)
def draw(settings: Settings, params: Any, rows: Rows, guidance: dict[str, Array], listener: Array) -> Array:
    """Noise to a clean sample ``[B, h, w, c]``.

    Args:
      settings: static.
      params: of the denoiser.
      rows: see `Rows`; row b of the result depends on row b alone.
      guidance: ``scale``, and ``low`` and ``high``, the noise levels (sigma / alpha) between which it applies.
      listener: the number that `listening` gave.
    """
    s = settings

    def answer(x: Array, t: Array) -> Array:
        output = guided(s, params, x, t, rows, guidance)
        if s.heard:
            jax.debug.callback(_tell, listener, *shown(s.process, output, x, t, rows))
        return output

    walk = with_levels_reached(diffusion.plan(s.process, s.solver, s.steps, s.start))
    constrain = functools.partial(put_back, rows) if "mask" in rows else None
    return diffusion.follow(answer, walk, first_sample(walk, s.start, rows), rows["keys"], constrain=constrain)


def first_sample(walk: diffusion.Plan, start: int, rows: Rows) -> Array:
    """A picture to begin with, noised; noise alone where there is none, or where all of it may be drawn anew."""
    painted = "mask" in rows or "extra" in rows
    if "clean" not in rows or (painted and start == 0):
        return diffusion.initial(walk, rows["noise"])
    return diffusion.noised(walk, rows["clean"], rows["noise"])


def with_levels_reached(walk: diffusion.Plan) -> diffusion.Plan:
    """A plan whose rows also say the levels of the sample after each evaluation: the next row's, at the end the data's.

    Solvers that evaluate at both ends of a step return to a level, so that it is not always where the step ends.
    """
    reached = {f"reached_{name}": np.append(walk.rows[name][1:], end) for name, end in (("alpha", 1.0), ("sigma", 0.0))}
    return dataclasses.replace(walk, rows=walk.rows | reached)


def put_back(rows: Rows, x: Array, row: dict[str, Array]) -> Array:
    """A sample with what is known of the picture where the mask is 0, at the sample's own level.

    Its noise is always that begun with, as in diffusers; RePaint (arXiv 2201.09865, algorithm 1) draws it anew.
    """
    known = row["reached_alpha"] * rows["clean"] + row["reached_sigma"] * rows["noise"]
    return rows["mask"] * x + (1 - rows["mask"]) * known


def shown(process: Process, output: Array, x: Array, t: Array, rows: Rows) -> tuple[Array, Array]:
    """The noisy sample and the estimate of x0, of which a listener is told."""
    levels = diffusion.marginal(process, t)
    sample = unscaled(process, x, levels[1])
    said = output[..., : x.shape[-1]]
    x0 = diffusion.convert(said, process.prediction, "sample", sample, *levels, process.sigma_data)
    if "mask" in rows:
        x0 = rows["mask"] * x0 + (1 - rows["mask"]) * rows["clean"]
    return sample, x0


def guided(s: Settings, params: Any, x: Array, t: Array, rows: Rows, guidance: dict[str, Array]) -> Array:
    """What the denoiser says with guidance: of both halves in one batch, the rows of a picture side by side.

    A learned variance is that of the conditional half.
    """
    given = jnp.concatenate([x, rows["extra"]], axis=-1) if "extra" in rows else x
    if not s.guided:
        return denoise(s.module, params, given, t, rows["conditional"])
    pairs = jax.tree.map(beside, rows["unconditional"], rows["conditional"])
    both = denoise(s.module, params, beside(given, given), beside(t, t), pairs)
    without, told = (both.reshape(-1, 2, *both.shape[1:])[:, i] for i in range(2))
    alpha, sigma = diffusion.marginal(s.process, t)
    ratio = sigma / jnp.maximum(alpha, jnp.finfo(alpha.dtype).tiny)
    scale = diffusion.interval_scale(guidance["scale"], ratio, guidance["low"], guidance["high"])
    channels = x.shape[-1]
    said = diffusion.guide(told[..., :channels], without[..., :channels], scale, s.rescale)
    return jnp.concatenate([said, told[..., channels:].astype(said.dtype)], axis=-1)


def beside(a: Array, b: Array) -> Array:
    """``[B, ...]`` twice to ``[2 B, ...]``, in which the two of each row are neighbours and so on one device."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def unscaled(process: Process, x: Array, sigma: Array) -> Array:
    """The noisy sample of which a network was given ``x``."""
    if process.schedule != "edm":
        return x
    return x * jnp.sqrt(sigma**2 + process.sigma_data**2)[:, None, None, None]


class listening:  # noqa: N801 - a context manager
    """Registers a listener and gives its number, so that another listener compiles nothing anew."""

    def __init__(self, listener: Listener | None):
        self._listener, self._number = listener, next(_numbers) % 2**31

    def __enter__(self) -> Array:
        if self._listener is not None:
            _LISTENERS[self._number] = self._listener
        return jnp.int32(self._number)

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            jax.effects_barrier()
            del _LISTENERS[self._number]


def _tell(number: np.ndarray, sample: np.ndarray, x0: np.ndarray) -> None:
    if listener := _LISTENERS.get(int(number)):
        listener(np.asarray(sample), np.asarray(x0))
