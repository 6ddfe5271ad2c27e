"""What the training stages of images share: batches for a system, and its denoising loss on them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fmzoo import data, objectives, text
from fmzoo.errors import InputError
from fmzoo.models.autoencoder import AutoencoderKL, to_latents
from fmzoo.models.denoiser import class_count, denoise, make_denoiser, needed_conditions
from fmzoo.models.text_to_image import TextToImageConfig, encode_prompts
from fmzoo.stages.cached_latents import CachedLatents, encode_pictures
from fmzoo.stages.training_run import own_rows

Batches = data.ImageIterator | CachedLatents


def check_latents(config: Any) -> None:
    """Refuses latents that cannot be encoded once: those of pictures that are cropped or flipped anew each epoch.

    Args:
      config: of a stage, with ``latents``, ``crop`` and ``flip``.

    Raises:
      InputError: they are to be cached, and differ from epoch to epoch.
    """
    if config.latents == "cache" and config.crop != "centre":
        raise InputError(f"latents are to be cached and crop is {config.crop!r}; centre, or latents encode, is needed")
    if config.latents == "cache" and config.flip:
        raise InputError(f"latents are to be cached and flip is {config.flip}; 0, or latents encode, is needed")


def make_batches(
    config: Any,
    system: TextToImageConfig,
    pictures: Sequence[data.Picture],
    prompts: text.PromptTokenizer | None,
    coder: Mapping[str, Any] | None,
) -> Batches:
    """This process's rows of pictures or of their latents, with what the denoiser is told of each.

    Args:
      config: of a stage, with ``batch_size``, ``crop``, ``flip``, ``latents``, ``posterior``, ``data_seed`` and
        ``workers``.
      system: that is trained.
      pictures: what `fmzoo.data.images` gives.
      prompts: the tokenizer of captions.
      coder: parameters of the system's autoencoder, if it has one.
    """
    told = needed_conditions(system.denoiser)
    fields = [*(["caption"] if prompts is not None else []), *(name for name in ("label", "time_ids") if name in told)]
    make = functools.partial(
        data.ImageIterator,
        batch_size=config.batch_size,
        rows=own_rows(config),
        seed=config.data_seed,
        tokenize=None if prompts is None else functools.partial(tokenize, prompts),
        workers=config.workers,
    )
    framing = frame_for(config, system)
    if config.latents == "encode" or system.autoencoder is None:
        return make(pictures, framing, fields=fields)
    kept = encode_pictures(system.autoencoder, coder, pictures, framing, config.batch_size, config.posterior)
    return CachedLatents(make, kept, fields)


def frame_for(config: Any, system: TextToImageConfig) -> data.Framing:
    """How pictures are brought to the size that a system is trained at."""
    coder = system.autoencoder
    factor, channels = (1, system.denoiser.in_channels) if coder is None else (coder.factor, coder.image_channels)
    side = system.denoiser.sample_size * factor
    return data.Framing(side, side, channels, config.crop, config.flip, factor)


def tokenize(prompts: text.PromptTokenizer, caption: str) -> dict[str, np.ndarray]:
    """One caption's tokens for each encoder."""
    return {name: rows[0] for name, rows in prompts.encode([caption]).items()}


def make_objective(
    config: Any, system: TextToImageConfig, prompts: text.PromptTokenizer | None
) -> objectives.ObjectiveFn:
    """The denoising loss of a system on batches of `make_batches`; what is trained is what the state holds.

    Args:
      config: of a stage, with ``dropout``, ``density``, ``weighting``, ``offset_noise`` and ``posterior``.
      system: its config.
      prompts: the tokenizer of captions.
    """
    module, needed = make_denoiser(system.denoiser), needed_conditions(system.denoiser)
    empty: dict[str, Any] = {} if prompts is None else tokenize(prompts, "")
    if "label" in needed:
        empty["label"] = class_count(system.denoiser)

    def say(parts: Any, x: jax.Array, t: jax.Array, conditions: Any, keys: jax.Array) -> jax.Array:
        return denoise(module, parts["denoiser"], x, t, conditions, keys)

    def condition(parts: Any, batch: Any) -> dict[str, jax.Array]:
        told = {name: batch[name] for name in ("label", "time_ids") if name in needed}
        rows = {name: batch[name] for name in system.encoders}
        return told | encode_prompts(system, parts, rows) if rows else told

    options = {name: getattr(config, name) for name in ("dropout", "density", "weighting", "offset_noise")}
    latents = None if system.autoencoder is None else functools.partial(draw_latents, system, config.posterior)
    return objectives.denoising(say, system.process, condition=condition, to_latents=latents, empty=empty, **options)


def draw_latents(system: TextToImageConfig, posterior: str, parts: Any, batch: Any, keys: jax.Array) -> jax.Array:
    """A denoiser's latents ``[B, h, w, c]``, from the batch's images or from what the autoencoder said of them."""
    coder = system.autoencoder
    if "mean" in batch:
        moments = batch["mean"], batch.get("logvar")
    else:
        moments = AutoencoderKL(coder).apply({"params": parts["autoencoder"]}, batch["image"], method="encode")
    return to_latents(coder, *moments, keys if posterior == "sample" else None)
