"""Optimizers from a config, by Optax: a schedule of the learning rate, clipping, and decay where decay belongs."""

import dataclasses
from typing import Any, Literal

import jax
import optax

from fmzoo.errors import InputError

NOT_DECAYED = ("scale", "bias", "head_bias")  # names of leaves that weight decay leaves alone: norms and biases
NOT_MATRICES = ("embed", "position_embed", "label_embed", "head")  # names of tables that Muon leaves to Adam


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101), Adafactor (1804.04235) or Muon (Jordan et al. 2024; 2502.16982), and its schedule."""

    name: Literal["adamw", "adafactor", "muon"] = "adamw"
    learning_rate: float = 3e-4  # at the peak
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1  # of the peak, at the last step
    decay_fraction: float = 0.2  # wsd: the share of steps over which the rate falls (arXiv 2405.18392)
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0  # of the whole gradient
    adam_learning_rate: float | None = None  # muon: the peak for embeddings, head, norms and biases

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        choices = {"name": ("adamw", "adafactor", "muon"), "schedule": ("cosine", "linear", "wsd", "constant")}
        for field, names in choices.items():
            if getattr(self, field) not in names:
                raise InputError(f"optimizer {field} is {getattr(self, field)!r}; one of {', '.join(names)} is needed")
        for field in ("learning_rate", "epsilon", "clip_norm", "adam_learning_rate"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise InputError(f"optimizer {field} is {value}; a number above 0 is needed")
        for field in ("final_fraction", "decay_fraction", "b1", "b2"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(f"optimizer {field} is {getattr(self, field)}; a number from 0 to 1 is needed")
        for field in ("warmup_steps", "weight_decay"):
            if getattr(self, field) < 0:
                raise InputError(f"optimizer {field} is {getattr(self, field)}; at least 0 is needed")


def learning_rate(config: OptimizerConfig, steps: int, peak: float | None = None) -> optax.Schedule:
    """The rate at each step: a linear rise over ``warmup_steps``, then the schedule down to ``final_fraction``.

    Args:
      config: names the schedule.
      steps: the total; warm-up takes at most half of it.
      peak: in place of the config's.
    """
    peak = config.learning_rate if peak is None else peak
    warmup, final = min(config.warmup_steps, steps // 2), peak * config.final_fraction
    rest = max(steps - warmup, 1)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, config.final_fraction)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, final, rest)
    elif config.schedule == "wsd":
        falling = min(max(int(steps * config.decay_fraction), 1), rest)
        after = optax.linear_schedule(peak, final, falling, rest - falling)
    else:
        after = optax.constant_schedule(peak)
    # The first step already moves: a rate of exactly 0 would waste it.
    return optax.join_schedules(
        [optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1)), after], [warmup]
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The Optax transformation that a config describes, for a run of ``steps``."""
    rate = learning_rate(config, steps)
    if config.name == "adamw":
        inner = _adamw(config, rate)
    elif config.name == "adafactor":
        inner = optax.adafactor(rate, weight_decay_rate=config.weight_decay or None, weight_decay_mask=decayed)
    else:
        muon = optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=matrices,
            consistent_rms=0.2,  # the update's root mean square is Adam's, so one rate serves both (2502.16982, 2.2)
        )
        adam = _adamw(config, learning_rate(config, steps, config.adam_learning_rate))
        inner = optax.partition({"muon": muon, "adam": adam}, _muon_or_adam)
    return inner if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), inner)


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(rate, config.b1, config.b2, config.epsilon, weight_decay=config.weight_decay, mask=decayed)


def decayed(params: Any) -> Any:
    """A tree of bools: true where weight decay applies, that is anywhere but norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _name(path) not in NOT_DECAYED, params)


def matrices(params: Any) -> Any:
    """Muon's view: kernels ``[D, F]`` or stacked ``[n, D, F]`` are matrices; None sends a leaf to Adam."""

    def view(path: Any, leaf: Any) -> Any:
        if leaf.ndim < 2 or _name(path) in (*NOT_DECAYED, *NOT_MATRICES):
            return None
        return optax.contrib.MuonDimensionNumbers(reduction_axis=leaf.ndim - 2, output_axis=leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(view, params)


def _muon_or_adam(params: Any) -> Any:
    return jax.tree.map(lambda view, _: "adam" if view is None else "muon", matrices(params), params, is_leaf=_is_view)


def _is_view(value: Any) -> bool:
    return value is None or isinstance(value, optax.contrib.MuonDimensionNumbers)


def _name(path: Any) -> str:
    return str(getattr(path[-1], "key", path[-1]))
