"""A system that draws pictures from words, as one config: encoders, denoiser, autoencoder, process."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fmzoo.models.autoencoder import AutoencoderConfig
from fmzoo.models.checks import check, check_options
from fmzoo.models.clip_text import ClipText, ClipTextConfig
from fmzoo.models.denoiser import DenoiserConfig
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.t5 import T5Config, T5Encoder
from fmzoo.models.unet_config import UNetConfig

Array = jax.Array
EncoderConfig = ClipTextConfig | T5Config
Family = Literal["sd1", "sd2", "sdxl", "sd3", "class"]
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "class")


class Encoders(dict):
    """Configs of text encoders by name; hashable, since a system's config is."""

    def __hash__(self) -> int:
        return hash(tuple(self.items()))


@dataclasses.dataclass(frozen=True)
class TextToImageConfig:
    """What a system is made of; its parameters are ``{"denoiser": ..., "autoencoder": ..., encoder's name: ...}``.

    Attributes:
      denoiser: what takes noise away.
      autoencoder: of the latents; None draws pixels.
      encoders: of the prompt, by name, in the order in which their outputs are joined.
      process: a `fmzoo.diffusion.Process`, what the denoiser was trained on.
      family: how prompts become conditions; ``class`` has no encoders.
      zero_empty_prompt: where no negative prompt is given, guidance leads away from zeros (SDXL).
      t5_length: tokens that T5 reads of a prompt, or zeros in their place where there is no T5 (SD3).
      solver: by which the system's makers draw: the class of the scheduler that is written.
    """

    denoiser: DenoiserConfig
    autoencoder: AutoencoderConfig | None
    encoders: Mapping[str, EncoderConfig]
    process: Any
    family: Family = "class"
    zero_empty_prompt: bool = False
    t5_length: int = 256
    solver: str | None = None

    def __post_init__(self) -> None:
        """Makes the encoders hashable, and refuses parts that do not fit together."""
        object.__setattr__(self, "encoders", Encoders(self.encoders))
        check_options(self, family=FAMILIES)
        check(self.t5_length >= 0, f"t5_length is {self.t5_length}; at least 0 is needed")
        check(
            bool(self.encoders) == (self.family != "class"),
            f"encoders are {list(self.encoders)} in a system of family {self.family!r}; only class has none",
        )
        _check_channels(self.denoiser, self.autoencoder)
        _check_widths(self)

    @property
    def lengths(self) -> dict[str, int]:
        """How many tokens each encoder reads of a prompt."""
        return {name: getattr(encoder, "context_length", self.t5_length) for name, encoder in self.encoders.items()}


def encode_prompts(config: TextToImageConfig, params: Mapping[str, Any], rows: Mapping[str, Array]) -> dict[str, Array]:
    """Conditions from rows of tokens; `fmzoo.text.PromptTokenizer` makes those.

    Args:
      config: static under `jax.jit`.
      params: of the encoders, by name; others may be beside them.
      rows: ``int32[B, T]`` by the encoder's name.

    Returns:
      ``context [B, S, D]``, and for SDXL and SD3 ``pooled [B, P]``.
    """
    told = {
        name: ENCODERS[type(encoder)](encoder).apply({"params": params[name]}, rows[name])
        for name, encoder in config.encoders.items()
    }
    return JOINS[config.family](config, list(told.values()))


def _last_state(config: TextToImageConfig, outputs: list) -> dict[str, Array]:
    """Stable Diffusion 1 and 2 (arXiv 2112.10752): the one tower's last state, after its norm."""
    return {"context": outputs[0]["last"]}


def _both_penultimate(config: TextToImageConfig, outputs: list) -> dict[str, Array]:
    """SDXL (arXiv 2307.01952, section 2.1): the towers side by side, and the last one's pooled output."""
    context = jnp.concatenate([one["penultimate"] for one in outputs], axis=-1)
    return {"context": context, "pooled": outputs[-1]["pooled"]}


def _towers_then_t5(config: TextToImageConfig, outputs: list) -> dict[str, Array]:
    """Stable Diffusion 3 (arXiv 2403.03206, section 4): the towers side by side, widened by zeros, then T5's tokens."""
    towers = [one for one in outputs if isinstance(one, dict)]
    context = jnp.concatenate([one["penultimate"] for one in towers], axis=-1)
    batch, width = context.shape[0], config.denoiser.context_features
    t5 = [one for one in outputs if not isinstance(one, dict)]
    t5 = t5 or [jnp.zeros((batch, config.t5_length, width), context.dtype)]
    widened = jnp.pad(context, ((0, 0), (0, 0), (0, width - context.shape[-1])))
    pooled = jnp.concatenate([one["pooled"] for one in towers], axis=-1)
    return {"context": jnp.concatenate([widened, *t5], axis=1), "pooled": pooled}


ENCODERS = {ClipTextConfig: ClipText, T5Config: T5Encoder}
JOINS = {"sd1": _last_state, "sd2": _last_state, "sdxl": _both_penultimate, "sd3": _towers_then_t5}


def _check_channels(denoiser: DenoiserConfig, autoencoder: AutoencoderConfig | None) -> None:
    """A denoiser of latents takes those, perhaps with a picture's latents and a mask beside them."""
    latent = denoiser.in_channels if autoencoder is None else autoencoder.latent_channels
    check(
        denoiser.in_channels in (latent, 2 * latent, 2 * latent + 1),
        f"denoiser has in_channels {denoiser.in_channels} and the autoencoder latent_channels {latent}; as many, or "
        f"{2 * latent + 1} with a mask and a picture, are needed",
    )


def _check_widths(config: TextToImageConfig) -> None:
    """What the encoders say must be as wide as what the denoiser reads."""
    towers = [encoder for encoder in config.encoders.values() if isinstance(encoder, ClipTextConfig)]
    others = [encoder for encoder in config.encoders.values() if isinstance(encoder, T5Config)]
    check(
        not others or config.family == "sd3",
        f"encoders hold a T5 in a system of family {config.family!r}; sd3 is needed",
    )
    width, denoiser = sum(tower.d_model for tower in towers), config.denoiser
    if isinstance(denoiser, UNetConfig) and towers and denoiser.attends:
        told = f"encoders are {width} wide and the denoiser reads a context_dim of {denoiser.context_dim}"
        check(width == denoiser.context_dim, f"{told}; the same is needed")
    if isinstance(denoiser, MMDiTConfig) and config.encoders:
        wide = max([width, *(t5.d_model for t5 in others)])
        told = f"encoders are up to {wide} wide and the denoiser reads context_features of {denoiser.context_features}"
        fits = wide <= denoiser.context_features and all(t5.d_model == denoiser.context_features for t5 in others)
        check(fits, f"{told}; T5's width, and no less than that of the towers together, is needed")
