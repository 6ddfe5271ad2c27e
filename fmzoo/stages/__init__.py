"""Stages: a data set, an objective and a step, put together and ready to run."""

from fmzoo.stages.describe import Description, describe
from fmzoo.stages.pretrain import PRESETS, PretrainConfig, is_finished, prepare, preset, pretrain

__all__ = [
    "PRESETS",
    "Description",
    "PretrainConfig",
    "describe",
    "is_finished",
    "prepare",
    "preset",
    "pretrain",
]
