"""Training: state, gradients, steps that compose, optimizers, the loop and its checkpoints."""

from fmzoo.train.check import Report, check_objective
from fmzoo.train.checkpoints import Checkpoints, complete_steps, load_params
from fmzoo.train.fills import Fill, Fills, fill_then
from fmzoo.train.fit import FitConfig, fit
from fmzoo.train.frozen import keep_frozen, load_frozen
from fmzoo.train.gradients import Gradients, accumulate, combine, gradients
from fmzoo.train.locations import locate
from fmzoo.train.metrics_log import MetricsLog, closing_mean, read_rows, replace_text
from fmzoo.train.optimizers import OptimizerConfig, learning_rate, make_optimizer
from fmzoo.train.progress import Progress, measure_matmul_rate
from fmzoo.train.state import State, average_params, init_state
from fmzoo.train.step import Step, carried, in_turn, moving_average, on, skip_nonfinite, update

__all__ = [
    "Checkpoints",
    "Fill",
    "Fills",
    "FitConfig",
    "Gradients",
    "MetricsLog",
    "OptimizerConfig",
    "Progress",
    "Report",
    "State",
    "Step",
    "accumulate",
    "average_params",
    "carried",
    "check_objective",
    "combine",
    "closing_mean",
    "complete_steps",
    "fill_then",
    "fit",
    "gradients",
    "in_turn",
    "init_state",
    "keep_frozen",
    "learning_rate",
    "load_frozen",
    "load_params",
    "locate",
    "make_optimizer",
    "measure_matmul_rate",
    "moving_average",
    "on",
    "read_rows",
    "replace_text",
    "skip_nonfinite",
    "update",
]
