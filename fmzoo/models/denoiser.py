"""Every denoiser called alike: a noisy sample, its time, and named conditions of which each takes what it knows."""

from typing import Any

import jax
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.models.dit import DiT, DiTConfig
from fmzoo.models.mmdit import MMDiT, MMDiTConfig
from fmzoo.models.unet import UNet
from fmzoo.models.unet_config import UNetConfig

Array = jax.Array
DenoiserConfig = UNetConfig | DiTConfig | MMDiTConfig
DENOISERS = {UNetConfig: UNet, DiTConfig: DiT, MMDiTConfig: MMDiT}


def make_denoiser(config: DenoiserConfig) -> nn.Module:
    """The module of a config."""
    return DENOISERS[type(config)](config)


def needed_conditions(config: DenoiserConfig) -> tuple[str, ...]:
    """The names of the conditions that a denoiser cannot do without."""
    if isinstance(config, DiTConfig):
        return ("label",)
    if isinstance(config, MMDiTConfig):
        return ("context", "pooled")
    told = {
        "context": config.context_dim is not None and config.attends,
        "pooled": config.added_dim is not None,
        "time_ids": config.added_dim is not None,
        "label": config.num_classes is not None,
    }
    return tuple(name for name, needed in told.items() if needed)


def denoise(
    module: nn.Module,
    params: Any,
    sample: Array,
    timesteps: Array,
    conditions: dict[str, Array],
    dropout_keys: Array | None = None,
) -> Array:
    """What a denoiser says of a noisy sample.

    Args:
      module: a `UNet`, `DiT` or `MMDiT`.
      params: of it.
      sample: ``[B, H, W, C]``.
      timesteps: ``[B]``.
      conditions: by name: ``context [B, S, D]``, ``pooled [B, P]``, ``time_ids [B, n]``, ``label int32[B]``; those that
        the denoiser does not know are left out.
      dropout_keys: a key for each row where the config has dropout.

    Returns:
      ``[B, H, W, C]``, or 2C channels where the variance is learned.

    Raises:
      InputError: a condition that it needs is not there.
    """
    variables, config = {"params": params}, module.config
    told = {name: conditions[name] for name in needed_conditions(config) if name in conditions}
    if missing := [name for name in needed_conditions(config) if name not in told]:
        raise InputError(f"conditions have no {missing[0]!r}; {', '.join(needed_conditions(config))} are needed")
    if isinstance(module, DiT):
        return module.apply(variables, sample, timesteps, told["label"])
    if isinstance(module, MMDiT):
        return module.apply(variables, sample, timesteps, told["context"], told["pooled"])
    keys = dropout_keys if config.dropout else None
    return module.apply(variables, sample, timesteps, told.pop("context", None), told, keys)


def class_count(config: DenoiserConfig) -> int:
    """How many classes a class-conditional denoiser knows; the label of that number stands for no class.

    A U-Net's table of labels has its last row for that.
    """
    return config.num_classes if isinstance(config, DiTConfig) else config.num_classes - 1
