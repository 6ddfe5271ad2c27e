"""LoRA files of whole systems that draw: files have diffusers' names of the components, parameters have ours."""

import dataclasses
from typing import Any

from etils import epath

from fmzoo.interop import lora_files
from fmzoo.interop.components import KINDS
from fmzoo.interop.lora_files import Target
from fmzoo.models import Pretrained
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.models.unet_config import UNetConfig

Tree = dict[str, Any]


def load(path: epath.PathLike, config: TextToImageConfig) -> Tree:
    """Adapters for `fmzoo.models.join` over a system's parameters, with scale 1.

    Raises:
      InputError: as `lora_files.load`.
    """
    found = lora_files.load(path, _targets(config), _denoiser(config))
    return {_ours(name): tree for name, tree in found.items()}


def merge(pretrained: Pretrained, path: epath.PathLike, scale: float = 1.0) -> Pretrained:
    """A system with a file's changes in its parameters, those of convolutions too.

    Raises:
      InputError: as `lora_files.merge`.
    """
    config = pretrained.config
    theirs = {name: pretrained.params[_ours(name)] for name in _targets(config)}
    changed = lora_files.merge(path, theirs, _targets(config), scale, _denoiser(config))
    params = {**pretrained.params, **{_ours(name): tree for name, tree in changed.items()}}
    return dataclasses.replace(pretrained, params=params)


def save(path: epath.PathLike, adapters: Tree, config: TextToImageConfig, scale: float = 1.0) -> None:
    """Writes a system's adapters into a file that diffusers' `load_lora_weights` reads.

    Args:
      path: a new safetensors file.
      adapters: of the denoiser, the text encoders or both, as `fmzoo.models.init_lora` makes them.
      config: of the system.
      scale: ``alpha / r``, what the adapters were joined with.

    Raises:
      InputError: as `lora_files.save`.
    """
    theirs = {_denoiser(config) if name == "denoiser" else name: tree for name, tree in adapters.items()}
    lora_files.save(path, theirs, _targets(config), scale)


def _targets(config: TextToImageConfig) -> dict[str, Target]:
    networks = {_denoiser(config): config.denoiser, **config.encoders}
    return {name: Target(KINDS[type(c)].table(c), KINDS[type(c)].structure(c)) for name, c in networks.items()}


def _denoiser(config: TextToImageConfig) -> str:
    return "unet" if isinstance(config.denoiser, UNetConfig) else "transformer"


def _ours(name: str) -> str:
    return "denoiser" if name in ("unet", "transformer") else name
