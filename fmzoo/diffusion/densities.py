"""At which times a network is trained: a time a row, each from its own key."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion import schedules
from fmzoo.diffusion.process import Process, ratios
from fmzoo.errors import InputError, nearest

Array = jax.Array
Density = Literal["uniform", "logit_normal", "mode", "edm"]
DENSITIES: tuple[str, ...] = get_args(Density)


def sample_times(
    process: Process,
    key_per_row: Array,
    density: Density = "uniform",
    *,
    mean: float | None = None,
    scale: float | None = None,
) -> Array:
    """Draws the network's times, float32 ``[B]``.

    ============ ============================================================================ =====================
    uniform      every step (a schedule of betas), every noise level (a flow), every time     arXiv 2006.11239
    logit_normal ``sigmoid(mean + scale z)``, by default 0 and 1                              arXiv 2403.03206, 19
    mode         ``1 - u - scale (cos^2(pi u / 2) - 1 + u)``, by default 1.29                 arXiv 2403.03206, 20
    edm          ``ln sigma = mean + scale z``, by default -1.2 and 1.2                       arXiv 2206.00364, t. 1
    ============ ============================================================================ =====================

    The first three are shares of the schedule's steps or a flow's noise level before its shift; EDM's is the ratio of
    noise to signal in every process.

    Args:
      process: of the network.
      key_per_row: a key a row, ``[B]`` typed keys or ``uint32[B, 2]``.
      density: one of the table.
      mean: of the normal, where there is one.
      scale: of the normal, or of the mode.

    Raises:
      InputError: an unknown density, or one that this process has no meaning for.
    """
    if density not in DENSITIES:
        raise InputError(f"density {str(density)[:40]!r} is not known; {nearest(str(density), DENSITIES)}")
    if process.schedule == "edm" and density in ("logit_normal", "mode"):
        raise InputError(f"density {density!r} is for a flow or a schedule of betas; schedule is 'edm'")
    if density == "edm":
        mean, scale = -1.2 if mean is None else mean, 1.2 if scale is None else scale
        return _time_of_ratio(process, jnp.exp(mean + scale * _normal(key_per_row)))
    return _time_of_share(process, _share(key_per_row, density, mean, scale))


def _share(keys: Array, density: str, mean: float | None, scale: float | None) -> Array:
    """Numbers in [0, 1), ``[B]``."""
    if density == "logit_normal":
        return jax.nn.sigmoid((mean or 0.0) + (1.0 if scale is None else scale) * _normal(keys))
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
    if density == "uniform":
        return uniform
    s = 1.29 if scale is None else scale
    return 1 - uniform - s * (jnp.cos(jnp.pi * uniform / 2) ** 2 - 1 + uniform)


def _time_of_share(process: Process, share: Array) -> Array:
    if process.schedule == "flow":
        return process.num_train_timesteps * schedules.shifted(share, process.shift)
    if process.schedule == "edm":
        low, high = np.log(process.sigma_min) / 4, np.log(process.sigma_max) / 4
        return low + (high - low) * share
    return jnp.clip(jnp.floor(share * process.num_train_timesteps), 0, process.num_train_timesteps - 1)


def _time_of_ratio(process: Process, ratio: Array) -> Array:
    if process.schedule == "edm":
        return jnp.log(ratio) / 4
    if process.schedule == "flow":
        return process.num_train_timesteps * ratio / (1 + ratio)
    table = jnp.asarray(ratios(process), jnp.float32)
    return jnp.round(jnp.interp(ratio, table, jnp.arange(len(table), dtype=jnp.float32)))


def _normal(keys: Array) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(keys)
