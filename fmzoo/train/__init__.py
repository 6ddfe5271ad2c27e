"""Training: state, gradients, steps that compose, optimizers, the loop and its checkpoints."""

from fmzoo.train.gradients import Gradients, accumulate, combine, gradients
from fmzoo.train.state import State, average_params, init_state
from fmzoo.train.step import Step, carried, in_turn, moving_average, on, skip_nonfinite, update

__all__ = [
    "Gradients",
    "State",
    "Step",
    "accumulate",
    "average_params",
    "carried",
    "combine",
    "gradients",
    "in_turn",
    "init_state",
    "moving_average",
    "on",
    "skip_nonfinite",
    "update",
]
