"""Diffusion as mathematics: schedules, predictions, weightings, guidance, solvers. Arrays in, arrays out."""

from fmzoo.diffusion.densities import sample_times
from fmzoo.diffusion.guidance import (
    dynamic_threshold,
    guide,
    interval_scale,
    scale_of_ho_and_salimans,
    static_threshold,
)
from fmzoo.diffusion.predictions import convert
from fmzoo.diffusion.process import (
    Process,
    add_noise,
    marginal,
    network_input,
    split_variance,
    target,
    to_epsilon,
    to_x0,
)
from fmzoo.diffusion.weightings import loss_weight

__all__ = [
    "Process",
    "add_noise",
    "convert",
    "dynamic_threshold",
    "guide",
    "interval_scale",
    "loss_weight",
    "marginal",
    "network_input",
    "sample_times",
    "scale_of_ho_and_salimans",
    "split_variance",
    "static_threshold",
    "target",
    "to_epsilon",
    "to_x0",
]
