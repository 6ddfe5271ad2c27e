"""Stages: a data set, an objective and a step, put together and ready to run."""

from fmzoo.stages.pretrain import PRESETS, PretrainConfig, prepare, preset, pretrain

__all__ = ["PRESETS", "PretrainConfig", "prepare", "preset", "pretrain"]
