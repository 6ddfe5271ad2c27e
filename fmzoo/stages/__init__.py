"""Stages: a data set, an objective and a step, put together and ready to run.

A stage is a function of a config and a folder; the config's ``stage`` is the function's name.
"""

from fmzoo.stages.autoencoders import AUTOENCODER_PRESETS, PretrainAutoencoderConfig, pretrain_autoencoder
from fmzoo.stages.describe import Description, describe
from fmzoo.stages.finetune_images import FinetuneImagesConfig, finetune_images
from fmzoo.stages.finetune_text import FinetuneTextConfig, finetune_text
from fmzoo.stages.images import IMAGE_PRESETS, PretrainImagesConfig, pretrain_images
from fmzoo.stages.presets import finetuning, preset
from fmzoo.stages.pretrain import PRESETS, PretrainConfig, prepare, pretrain
from fmzoo.stages.run_folder import is_finished

__all__ = [
    "AUTOENCODER_PRESETS",
    "PRESETS",
    "Description",
    "FinetuneImagesConfig",
    "FinetuneTextConfig",
    "IMAGE_PRESETS",
    "PretrainAutoencoderConfig",
    "PretrainConfig",
    "PretrainImagesConfig",
    "describe",
    "finetune_images",
    "finetune_text",
    "finetuning",
    "is_finished",
    "prepare",
    "preset",
    "pretrain",
    "pretrain_autoencoder",
    "pretrain_images",
]
