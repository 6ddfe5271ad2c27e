"""The autoencoder that stays as it is while a denoiser learns its latents."""

import dataclasses
from typing import Any, NamedTuple, TypeVar

from fmzoo.errors import InputError
from fmzoo.models.autoencoder import AutoencoderConfig

Config = TypeVar("Config")


class Coder(NamedTuple):
    """A frozen autoencoder."""

    config: AutoencoderConfig
    params: dict[str, Any]


def read_autoencoder(config: Any) -> Coder | None:
    """The frozen autoencoder, if the config names one: alone, a run's (averaged if it can be), or of a whole system.

    Args:
      config: of a stage, with ``autoencoder`` and a ``model`` that may have one.

    Raises:
      InputError: what it names holds none, or one of another config, or the model expects one and none is named.
    """
    from fmzoo.pretrained import keeps_average, load

    expected = config.model.autoencoder
    if config.autoencoder is None:
        if expected is not None:
            raise InputError("autoencoder is None and model.autoencoder is set; the source of its weights is needed")
        return None
    source = load(config.autoencoder, average=keeps_average(config.autoencoder))
    if isinstance(source.config, AutoencoderConfig):
        coder = Coder(source.config, source.params)
    elif getattr(source.config, "autoencoder", None) is not None:
        coder = Coder(source.config.autoencoder, source.params["autoencoder"])
    else:
        raise InputError(
            f"autoencoder {config.autoencoder} holds none; an autoencoder, or a system with one, is needed"
        )
    if expected not in (None, coder.config):
        raise InputError(f"autoencoder {config.autoencoder} does not hold the one that model.autoencoder describes")
    return coder


def in_latents(config: Config, coder: Coder | None) -> Config:
    """The config (with a ``model``) whose model has the autoencoder, its denoiser of pictures become one of latents.

    Rows, columns and channels of the denoiser are those of a latent then, the channels that it gives (twice as many
    where the variance is learned) in proportion; a transformer's patches cover as many pixels as before, if they can.
    A threshold is for pixels, so the process loses it. A model that has an autoencoder is left as it is.

    Raises:
      InputError: the pictures' rows are no multiple of the autoencoder's factor.
    """
    if coder is None or config.model.autoencoder is not None:
        return config
    old, factor = config.model.denoiser, coder.config.factor
    if old.sample_size % factor:
        raise InputError(
            f"model.denoiser.sample_size is {old.sample_size}; a multiple of the factor {factor} is needed"
        )
    channels = coder.config.latent_channels
    patches = {"patch_size": max(1, old.patch_size // factor)} if hasattr(old, "patch_size") else {}
    denoiser = dataclasses.replace(
        old, sample_size=old.sample_size // factor, in_channels=channels,
        out_channels=channels * old.out_channels // old.in_channels, **patches,
    )  # fmt: skip
    process = dataclasses.replace(config.model.process, threshold=None)
    model = dataclasses.replace(config.model, denoiser=denoiser, autoencoder=coder.config, process=process)
    return dataclasses.replace(config, model=model)
