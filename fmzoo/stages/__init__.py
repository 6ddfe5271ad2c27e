"""Stages: a data set, an objective and a step, put together and ready to run."""

from fmzoo.stages.describe import Description, describe
from fmzoo.stages.images import IMAGE_PRESETS, PretrainImagesConfig, pretrain_images
from fmzoo.stages.presets import preset
from fmzoo.stages.pretrain import PRESETS, PretrainConfig, prepare, pretrain
from fmzoo.stages.run_folder import is_finished

__all__ = [
    "PRESETS",
    "Description",
    "IMAGE_PRESETS",
    "PretrainConfig",
    "PretrainImagesConfig",
    "describe",
    "is_finished",
    "prepare",
    "preset",
    "pretrain",
    "pretrain_images",
]
