"""Low-rank adapters and the models that they are for: files onto a loaded model, and the adapters of one as a file."""

import dataclasses

from etils import epath

from fmzoo import models
from fmzoo.errors import InputError
from fmzoo.interop import decoder_lora, system_lora
from fmzoo.models import DecoderConfig, Pretrained
from fmzoo.models.text_to_image import TextToImageConfig


def adapt(pretrained: Pretrained, path: epath.PathLike) -> Pretrained:
    """A model with LoRA weights of a file or of PEFT's folder: nodes over a decoder, merged into a system that draws.

    Raises:
      InputError: the file is damaged or for another model, of a kind that is not known, or the model takes none.
    """
    if isinstance(pretrained.config, TextToImageConfig):
        return system_lora.merge(pretrained, path)
    if not isinstance(pretrained.config, DecoderConfig):
        name = type(pretrained.config).__name__
        raise InputError(f"adapter is {str(path)[:100]!r} and the model is of {name}; a decoder or a system is needed")
    adapters = decoder_lora.load(path, pretrained.config, pretrained.model_type)
    return dataclasses.replace(pretrained, params=models.join(pretrained.params, adapters))


def save(pretrained: Pretrained, folder: epath.PathLike) -> None:
    """Writes the adapters of a decoder as a folder of PEFT, completely or not at all.

    Raises:
      InputError: it has none, or as `decoder_lora.save`.
    """
    adapters = models.separate(pretrained.params)[1]
    if not isinstance(pretrained.config, DecoderConfig) or not adapters:
        raise InputError("format is peft and the model has no adapters; a decoder loaded with an adapter is needed")
    decoder_lora.save(folder, adapters, pretrained.config, 1.0, pretrained.model_type)
