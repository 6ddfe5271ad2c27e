"""Runs by name: presets of every stage that trains from scratch, runs made from names of the zoo, and fine-tuning."""

from typing import Any

from etils import epath

from fmzoo import train
from fmzoo.errors import InputError, nearest
from fmzoo.interop import image_runs, pipelines
from fmzoo.pretrained import is_run
from fmzoo.stages.autoencoders import AUTOENCODER_PRESETS, PretrainAutoencoderConfig
from fmzoo.stages.finetune_images import FinetuneImagesConfig
from fmzoo.stages.finetune_text import FinetuneTextConfig
from fmzoo.stages.images import IMAGE_PRESETS, PretrainImagesConfig
from fmzoo.stages.pretrain import PRESETS, PretrainConfig
from fmzoo.text.files import read_json


def preset(name: str) -> PretrainConfig | PretrainImagesConfig | PretrainAutoencoderConfig:
    """A preset of text, of images or of autoencoders, or one made from a zoo name.

    Raises:
      InputError: there is no such preset.
    """
    from fmzoo import zoo

    known = {**PRESETS, **IMAGE_PRESETS, **AUTOENCODER_PRESETS}
    if name in known:
        return known[name]
    if name not in zoo.names():
        raise InputError(f"preset {name!r} is unknown; {nearest(name, [*known, *zoo.names()])}")
    model = zoo.entry(name).config()
    return PretrainConfig(model=model, sequence_length=model.context_length)


def finetuning(source: epath.PathLike) -> FinetuneImagesConfig | FinetuneTextConfig:
    """The config that fine-tunes a source, by whether it draws or writes; its ``data`` is for the user to name."""
    return FinetuneImagesConfig(source=str(source)) if draws(source) else FinetuneTextConfig(source=str(source))


def draws(source: epath.PathLike) -> bool:
    """Whether a source looks like a system that draws pictures; its weights are not read."""
    path = train.locate(source)
    if is_run(path):
        values: Any = read_json(path / "config.json")
        return values.get("stage") in (image_runs.PRETRAIN, image_runs.FINETUNE)
    return (path / pipelines.INDEX).exists() or (path.suffix == ".safetensors" and path.exists())
