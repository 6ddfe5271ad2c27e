"""Diffusion as mathematics: schedules, predictions, weightings, guidance, solvers. Arrays in, arrays out."""

from fmzoo.diffusion.densities import sample_times
from fmzoo.diffusion.estimates import Estimate, estimate
from fmzoo.diffusion.guidance import (
    dynamic_threshold,
    guide,
    interval_scale,
    scale_of_ho_and_salimans,
    static_threshold,
)
from fmzoo.diffusion.plans import Plan, initial, noised, plan
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
from fmzoo.diffusion.sampling import follow, sample
from fmzoo.diffusion.solvers import SOLVERS, step
from fmzoo.diffusion.weightings import loss_weight

__all__ = [
    "SOLVERS",
    "Estimate",
    "Plan",
    "Process",
    "add_noise",
    "convert",
    "dynamic_threshold",
    "estimate",
    "follow",
    "guide",
    "initial",
    "interval_scale",
    "loss_weight",
    "marginal",
    "network_input",
    "noised",
    "plan",
    "sample",
    "sample_times",
    "scale_of_ho_and_salimans",
    "split_variance",
    "static_threshold",
    "step",
    "target",
    "to_epsilon",
    "to_x0",
]
