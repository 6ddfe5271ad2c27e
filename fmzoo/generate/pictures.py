"""Between pictures of 8 bits and what a denoiser works on: sizes, latents, masks, and back."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.errors import InputError, require
from fmzoo.models.autoencoder import AutoencoderKL, from_latents, to_latents

Array = jax.Array


class Shape(NamedTuple):
    """The size of pictures and of what the denoiser works on.

    Attributes:
      height: of the picture.
      width: of the picture.
      factor: pixels of the picture for one place of the sample, in each direction.
      channels: of the sample.
    """

    height: int
    width: int
    factor: int
    channels: int

    @property
    def sample(self) -> tuple[int, int, int]:
        """``(h, w, c)``."""
        return self.height // self.factor, self.width // self.factor, self.channels


def shape_of(config: Any, size: tuple[int, int] | None, latents: Array | None, image: Any) -> Shape:
    """The shape asked for, or else that of what is given, or else the model's own.

    Raises:
      InputError: a size is below 1 or not divisible by the autoencoder's factor.
    """
    autoencoder = config.autoencoder
    factor = 1 if autoencoder is None else autoencoder.factor
    channels = config.denoiser.in_channels if autoencoder is None else autoencoder.latent_channels
    if size is None and latents is not None:
        sizes = require("latents", latents, "B h w c")
        size = sizes["h"] * factor, sizes["w"] * factor
    if size is None and image is not None:
        size = np.shape(image)[-3:-1]
    height, width = size or (config.denoiser.sample_size * factor,) * 2
    for name, value in (("height", height), ("width", width)):
        if value < 1 or value % factor:
            near = max(round(value / factor), 1) * factor
            raise InputError(f"{name} is {value}; a multiple of {factor} is needed, such as {near}")
    return Shape(int(height), int(width), factor, channels)


def read_latents(latents: Array | None, keys: Array, shape: Shape) -> Array:
    """The noise to begin with ``[B, h, w, c]``: what is given, or a draw by each row's key.

    Raises:
      InputError: what is given has another shape.
    """
    if latents is None:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), shape.sample))(keys)
    wanted = " ".join(map(str, (len(keys), *shape.sample)))
    require("latents", latents, wanted)
    return jnp.asarray(latents, jnp.float32)


def read_known(config: Any, params: Any, image: Any, mask: Any, count: int, shape: Shape) -> dict[str, Array]:
    """``clean [B, h, w, c]`` and, with a mask, ``mask [B, h, w, 1]``, or ``extra`` for a denoiser with channels for it.

    Raises:
      InputError: there is a mask and no image, or a shape does not fit.
    """
    if image is None:
        raise InputError("mask is given and image is None; the image that it is a mask of is needed")
    size = f"{shape.height} {shape.width}"
    pictures = to_unit(rows_of("image", image, f"{size} 3", count), config)
    known = {"clean": _encode(config, params, pictures)}
    if mask is None:
        return known
    whole = jnp.asarray(rows_of("mask", mask, size, count) != 0, jnp.float32)[..., None]
    small = whole[:, :: shape.factor, :: shape.factor]
    if config.denoiser.in_channels == 2 * shape.channels + 1:
        return known | {"extra": jnp.concatenate([small, _encode(config, params, pictures * (whole < 0.5))], axis=-1)}
    return known | {"mask": small}


def rows_of(name: str, given: Any, shape: str, count: int) -> np.ndarray:
    """What is given once for all pictures, or for each, as ``count`` rows of a shape.

    Raises:
      InputError: it has another shape, or another number of rows.
    """
    given = np.asarray(given)
    require(name, given, f"... {shape}")
    own = len(shape.split())
    if given.shape[:-own] not in ((), (1,), (count,)):
        raise InputError(f"{name} has shape {given.shape} for {count} prompts; one, or one for each, is needed")
    return np.broadcast_to(given, (count, *given.shape[-own:]))


def to_unit(image: np.ndarray, config: Any) -> Array:
    """Pictures of 8 bits ``[..., 3]`` in [-1, 1] and in the model's colours.

    Raises:
      InputError: they have another dtype.
    """
    if image.dtype != np.uint8:
        raise InputError(f"image is {image.dtype}; uint8 from 0 to 255 is needed")
    unit = jnp.asarray(image, jnp.float32) / 127.5 - 1
    return unit if _colours(config) == 3 else jnp.mean(unit, axis=-1, keepdims=True)


def decode(config: Any, params: Any, samples: Array) -> np.ndarray:
    """Samples ``[B, h, w, c]`` as pictures ``uint8 [B, H, W, 3]``.

    Raises:
      InputError: a sample is not finite.
    """
    broken = np.flatnonzero(~np.isfinite(np.asarray(jnp.sum(samples, axis=(1, 2, 3)))))
    if broken.size:
        raise InputError(f"sample {broken[0]} is not finite; other parameters, a wider dtype or more steps are needed")
    if config.autoencoder is not None:
        samples = _decode(AutoencoderKL(config.autoencoder), params["autoencoder"], samples)
    return to_bytes(np.asarray(samples))


def to_bytes(pictures: np.ndarray) -> np.ndarray:
    """``[B, H, W, C]`` in [-1, 1] as ``uint8 [B, H, W, 3]``; grey is repeated, of more than 3 channels 3 are taken."""
    pictures = np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] < 3 else pictures[..., :3]
    return np.rint(np.clip(pictures.astype(np.float32) / 2 + 0.5, 0, 1) * 255).astype(np.uint8)


def preview(x0: np.ndarray, shape: Shape) -> np.ndarray:
    """An estimate as pictures: itself in pixels; of latents the first three channels, scaled to what they span."""
    if shape.factor == 1:
        return to_bytes(x0)
    largest = np.abs(x0[..., :3]).max(axis=(1, 2, 3), keepdims=True)
    return to_bytes(x0[..., :3] / np.maximum(largest, 1e-6))


def _colours(config: Any) -> int:
    return config.denoiser.out_channels if config.autoencoder is None else config.autoencoder.image_channels


def _encode(config: Any, params: Any, pictures: Array) -> Array:
    """The mean of the latents, or the pictures themselves."""
    if config.autoencoder is None:
        return pictures
    return _encode_mean(AutoencoderKL(config.autoencoder), params["autoencoder"], pictures)


@functools.partial(jax.jit, static_argnums=0)
def _encode_mean(module: AutoencoderKL, params: Any, pictures: Array) -> Array:
    return to_latents(module.config, *module.apply({"params": params}, pictures, method="encode"), None)


@functools.partial(jax.jit, static_argnums=0)
def _decode(module: AutoencoderKL, params: Any, latents: Array) -> Array:
    return module.apply({"params": params}, from_latents(module.config, latents), method="decode")
