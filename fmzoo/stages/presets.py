"""Runs by name: the presets of every stage that trains from scratch, and those made from names of the zoo."""

from fmzoo.errors import InputError, nearest
from fmzoo.stages.images import IMAGE_PRESETS, PretrainImagesConfig
from fmzoo.stages.pretrain import PRESETS, PretrainConfig


def preset(name: str) -> PretrainConfig | PretrainImagesConfig:
    """A preset of text or of images, or one made from a zoo name.

    Raises:
      InputError: there is no such preset.
    """
    from fmzoo import zoo

    known = {**PRESETS, **IMAGE_PRESETS}
    if name in known:
        return known[name]
    if name not in zoo.names():
        raise InputError(f"preset {name!r} is unknown; {nearest(name, [*known, *zoo.names()])}")
    model = zoo.entry(name).config()
    return PretrainConfig(model=model, sequence_length=model.context_length)
