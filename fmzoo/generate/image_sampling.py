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

    ``noise [B, h, w, c]``; ``keys [B]``; ``conditional`` and ``unconditional``, conditions by name; ``clean`` and
    ``mask``, what is known and 1 where it is to be drawn anew; ``extra``, channels behind the sample's.
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
        if "mask" not in rows and not s.heard:
            return output
        said, rest = output[..., : x.shape[-1]], output[..., x.shape[-1] :]
        levels = diffusion.marginal(s.process, t)
        sample = unscaled(s.process, x, levels[1])
        x0 = diffusion.convert(said, s.process.prediction, "sample", sample, *levels, s.process.sigma_data)
        if "mask" in rows:
            x0 = keep_known(x0, rows)
            said = diffusion.convert(x0, "sample", s.process.prediction, sample, *levels, s.process.sigma_data)
        if s.heard:
            jax.debug.callback(_tell, listener, sample, x0)
        return jnp.concatenate([said, rest], axis=-1)

    walk = diffusion.plan(s.process, s.solver, s.steps, s.start)
    first = diffusion.noised(walk, rows["clean"], rows["noise"]) if s.start else diffusion.initial(walk, rows["noise"])
    x0 = diffusion.follow(answer, walk, first, rows["keys"])
    return keep_known(x0, rows) if "mask" in rows else x0


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


def keep_known(x0: Array, rows: Rows) -> Array:
    """An estimate with what is known in place of it where the mask is 0.

    As the noise there is then the noise begun with, a deterministic solver passes through exactly the noised known
    part at every level.
    """
    return rows["mask"] * x0 + (1 - rows["mask"]) * rows["clean"]


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
