"""A diffusion process: its config, its noise levels at a time, and what a network of it hears and says.

``x_t = alpha x0 + sigma epsilon``. The time is what the network is told: ``0 .. num_train_timesteps - 1`` for schedules
of betas, ``ln(sigma) / 4`` for EDM, ``num_train_timesteps * sigma`` for flows. Levels and everything made from them are
float32 or better, whatever the dtype of the network.
"""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion import schedules
from fmzoo.diffusion.predictions import PREDICTIONS, Prediction, combined, parts
from fmzoo.errors import InputError, nearest

Array = jax.Array
Schedule = Literal["linear", "scaled_linear", "cosine", "edm", "flow"]
Spacing = Literal["leading", "trailing", "linspace", "default"]
LARGEST_RATIO = 2.0**12  # sigma / alpha where the signal is gone: what diffusers takes for an infinite one


@dataclasses.dataclass(frozen=True)
class Process:
    """What a scheduler config of diffusers says, and nothing that one solver alone reads.

    ``"default"`` as spacing, threshold or final alpha leaves the choice to the solver: what its class in diffusers
    does where a config does not say.

    Args:
      schedule: betas by `schedules`, EDM's continuous sigmas, or a flow's straight line.
      num_train_timesteps: the number of steps of a schedule, or the scale of a flow's time.
      beta_start: the first beta (cosine: not read).
      beta_end: the last beta (cosine: not read).
      zero_terminal_snr: rescales the betas so that the last step is pure noise.
      prediction: what the network says; see `predictions`.
      learned_variance: the network says 2C channels, the second half the share of the log-variance between its two
        bounds, in [-1, 1] (arXiv 2102.09672, eq. 15).
      variance: the fixed variance of DDPM, of the posterior ("small") or of the step ("large").
      spacing: which times a solver takes of a schedule of betas.
      steps_offset: added to times with leading spacing.
      karras: spaces the sigmas between their ends as EDM does.
      final_alpha_one: the last step of DDIM and PLMS goes to the data, not to step 0 of the schedule.
      shift: a flow's resolution shift.
      sigma_min: the smallest sigma of EDM.
      sigma_max: the largest sigma of EDM.
      rho: the exponent of EDM's spacing.
      sigma_data: the deviation of the data that EDM's scalings assume.
      threshold: keeps estimates of x0 in range: "static" clips, "dynamic" rescales by a percentile.
      clip_range: the largest absolute value after a static threshold.
      threshold_percentile: the share of absolute values that a dynamic threshold keeps unclipped.
      threshold_max: the largest scale that a dynamic threshold divides by; None for no bound.

    Raises:
      InputError: a value is unknown or out of range, or the noise is to be predicted from pure noise.
    """

    schedule: Schedule = "scaled_linear"
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    prediction: Prediction = "epsilon"
    learned_variance: bool = False
    variance: Literal["small", "large"] = "small"
    spacing: Spacing = "leading"
    steps_offset: int = 1
    karras: bool = False
    final_alpha_one: bool | Literal["default"] = False
    shift: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 0.5
    threshold: Literal["static", "dynamic", "default"] | None = None
    clip_range: float = 1.0
    threshold_percentile: float = 0.995
    threshold_max: float | None = None

    def __post_init__(self):
        _check_choices(self)
        _check_ranges(self)
        if self.prediction == "epsilon" and (self.zero_terminal_snr or self.schedule == "flow"):
            reason = "zero_terminal_snr=True" if self.schedule != "flow" else "schedule 'flow'"
            raise InputError(
                f"prediction 'epsilon' with {reason} gives no picture, as pure noise alone does not say x0; "
                "'v_prediction', 'velocity' or 'sample' is needed"
            )

    @property
    def is_discrete(self) -> bool:
        """Whether the schedule is a table of betas."""
        return self.schedule in schedules.BETAS


def _check_choices(process: Process) -> None:
    choices = {
        "schedule": get_args(Schedule),
        "prediction": PREDICTIONS,
        "variance": ("small", "large"),
        "spacing": get_args(Spacing),
        "threshold": (None, "static", "dynamic", "default"),
        "final_alpha_one": (True, False, "default"),
    }
    for name, options in choices.items():
        value = getattr(process, name)
        if value not in options:
            raise InputError(f"{name} is {str(value)[:40]!r}; {nearest(str(value), options)}")


def _check_ranges(process: Process) -> None:
    p = process
    checks = (
        ("num_train_timesteps", 2 <= p.num_train_timesteps <= 1_000_000, "2 to 1,000,000"),
        ("beta_start", 0 < p.beta_start <= p.beta_end, "above 0 and at most beta_end"),
        ("beta_end", p.beta_end < 1, "below 1"),
        ("steps_offset", 0 <= p.steps_offset < p.num_train_timesteps, "0 to num_train_timesteps - 1"),
        ("shift", 0 < p.shift < np.inf, "above 0"),
        ("sigma_min", 0 < p.sigma_min < p.sigma_max, "above 0 and below sigma_max"),
        ("sigma_max", p.sigma_max < np.inf, "finite"),
        ("rho", 0 < p.rho < np.inf, "above 0"),
        ("sigma_data", 0 < p.sigma_data < np.inf, "above 0"),
        ("clip_range", 0 < p.clip_range < np.inf, "above 0"),
        ("threshold_percentile", 0 < p.threshold_percentile <= 1, "above 0 and at most 1"),
        ("threshold_max", p.threshold_max is None or p.threshold_max >= 1, "None or at least 1"),
    )
    for name, holds, accepted in checks:
        if not holds:
            raise InputError(f"{name} is {getattr(p, name)!r}; {accepted} is needed")
    if p.zero_terminal_snr and not p.is_discrete:
        raise InputError(f"zero_terminal_snr is for schedules of betas; schedule is {p.schedule!r}")


@functools.lru_cache(maxsize=64)
def levels(process: Process) -> np.ndarray:
    """The levels of the signal of a schedule of betas, ``sqrt(alpha_bar)``, float64 ``[num_train_timesteps]``."""
    p = process
    betas = schedules.BETAS[p.schedule](p.num_train_timesteps, p.beta_start, p.beta_end)
    table = schedules.signal_levels(betas, p.zero_terminal_snr)
    table.flags.writeable = False
    return table


@functools.lru_cache(maxsize=64)
def ratios(process: Process) -> np.ndarray:
    """``sigma / alpha`` of a schedule of betas, at most `LARGEST_RATIO`, float64 ``[num_train_timesteps]``."""
    alpha = levels(process)
    floor = 1 / np.sqrt(1 + LARGEST_RATIO**2) if process.zero_terminal_snr else 0.0
    alpha = np.maximum(alpha, floor)
    table = np.sqrt(1 - alpha**2) / alpha
    table.flags.writeable = False
    return table


def marginal(process: Process, t: Array) -> tuple[Array, Array]:
    """The levels ``(alpha, sigma)`` of the signal and the noise at times ``[B]``, in float32 or better.

    Between two steps of a schedule of betas, ``sigma / alpha`` is interpolated linearly.
    """
    t = jnp.asarray(t)
    t = t.astype(jnp.promote_types(jnp.float32, t.dtype))
    if process.schedule == "edm":
        return jnp.ones_like(t), jnp.exp(4 * t)
    if process.schedule == "flow":
        sigma = t / process.num_train_timesteps
        return 1 - sigma, sigma
    last = process.num_train_timesteps - 1
    low = jnp.clip(jnp.floor(t), 0, last).astype(jnp.int32)
    share = jnp.clip(t - low, 0, 1)
    ratio = jnp.asarray(ratios(process), t.dtype)
    between = (1 - share) * ratio[low] + share * ratio[jnp.minimum(low + 1, last)]
    exact = levels(process)
    alpha = jnp.where(share == 0, jnp.asarray(exact, t.dtype)[low], jax.lax.rsqrt(1 + between**2))
    noise = jnp.asarray(np.sqrt(1 - exact**2), t.dtype)[low]
    return alpha, jnp.where(share == 0, noise, between * jax.lax.rsqrt(1 + between**2))


def add_noise(process: Process, x0: Array, noise: Array, t: Array) -> Array:
    """``alpha x0 + sigma noise`` at times ``[B]``, ``[B, ...]`` in float32 or better (arXiv 2006.11239, eq. 4)."""
    alpha, sigma = (_rows(level, x0) for level in marginal(process, t))
    return alpha * x0 + sigma * noise


def target(process: Process, x0: Array, noise: Array, t: Array) -> Array:
    """What the network shall say of ``add_noise(process, x0, noise, t)``, ``[B, ...]`` in float32 or better."""
    return combined(x0, noise, process.prediction, *marginal(process, t), process.sigma_data)


def to_x0(process: Process, output: Array, x_t: Array, t: Array) -> Array:
    """The clean sample that the network's output stands for, ``[B, ...]``; a learned variance is left out."""
    return _parts(process, output, x_t, t)[0]


def to_epsilon(process: Process, output: Array, x_t: Array, t: Array) -> Array:
    """The noise that the network's output stands for, ``[B, ...]``; a learned variance is left out."""
    return _parts(process, output, x_t, t)[1]


def split_variance(process: Process, output: Array) -> tuple[Array, Array | None]:
    """The prediction ``[..., C]`` and, where the variance is learned, the share of its log ``[..., C]`` in [0, 1]."""
    if not process.learned_variance:
        return output, None
    prediction, share = jnp.split(output, 2, axis=-1)
    return prediction, (share + 1) / 2


def network_input(process: Process, x_t: Array, t: Array) -> tuple[Array, Array]:
    """What the network is given: the sample scaled (EDM's ``c_in``, arXiv 2206.00364, table 1) and its time ``[B]``."""
    if process.schedule != "edm":
        return x_t, t
    _, sigma = marginal(process, t)
    return x_t * _rows(jax.lax.rsqrt(sigma**2 + process.sigma_data**2), x_t), t


def _parts(process: Process, output: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    prediction, _ = split_variance(process, output)
    return parts(prediction, process.prediction, x_t, *marginal(process, t), process.sigma_data)


def _rows(levels_of_rows: Array, x: Array) -> Array:
    return levels_of_rows.reshape(levels_of_rows.shape + (1,) * (x.ndim - levels_of_rows.ndim))
