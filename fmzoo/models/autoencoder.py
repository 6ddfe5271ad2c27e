"""The autoencoder of latent diffusion: a picture to the mean and variance of a small latent, and back (2112.10752)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError, require
from fmzoo.models.checks import check, check_options, check_positive
from fmzoo.models.convolution import Convolution, UpsampledConvolution
from fmzoo.models.image_attention import attend_pixels
from fmzoo.models.norms import GroupNorm
from fmzoo.models.projection import Weights
from fmzoo.models.resnet import BRANCH_SCALE, ResnetBlock

Array = jax.Array
LEAST_LOGVAR, MOST_LOGVAR = -30.0, 20.0  # as the reference clips them


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Stable Diffusion 1's and 2's by default."""

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)  # each after the first halves the picture
    layers_per_block: int = 2  # of the encoder; the decoder has one more
    norm_groups: int = 32
    epsilon: float = 1e-6
    mid_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True
    scaling_factor: float = 0.18215  # latents of a denoiser are (z - shift_factor) * scaling_factor
    shift_factor: float = 0.0
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    attention: Literal["xla", "rows", "cudnn"] = "xla"  # rows holds one head's scores at a time
    upcast: bool = True  # float16 is computed in float32, since activations of SDXL's pass 65,504

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_positive(self, "image_channels", "latent_channels", "channels", "layers_per_block", "norm_groups")
        check_positive(self, "epsilon", "scaling_factor")
        check_options(self, dtype=("float32", "bfloat16", "float16", "float64"), attention=("xla", "rows", "cudnn"))
        check(bool(self.channels), "channels is empty; at least one number is needed")
        check(
            all(n % self.norm_groups == 0 for n in self.channels),
            f"channels is {self.channels}; multiples of norm_groups {self.norm_groups} are needed",
        )

    @property
    def factor(self) -> int:
        """How many pixels wide and high a place of the latent is."""
        return 2 ** (len(self.channels) - 1)

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype("float32" if self.upcast and self.dtype == "float16" else self.dtype)


def residual(config: AutoencoderConfig, features: int, name: str) -> ResnetBlock:
    """A residual block without a time."""
    return ResnetBlock(features, config.norm_groups, config.epsilon, name=name)


class PixelAttention(nn.Module):
    """Attention among all places of a feature map, by one head as wide as the map has channels."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, H, W, C]`` to the same shape."""
        batch, height, width, channels = x.shape
        y = GroupNorm(self.config.norm_groups, self.config.epsilon, name="norm")(x).reshape(batch, -1, channels)
        q, k, v = (Weights(channels, True, name=name)(channels)(y)[:, :, None] for name in ("query", "key", "value"))
        y = attend_pixels(q, k, v, implementation=self.config.attention).reshape(y.shape)
        return x + Weights(channels, True, BRANCH_SCALE, name="out")(channels)(y).reshape(x.shape)


class Middle(nn.Module):
    """What the encoder ends and the decoder begins with."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, H, W, C]`` to the same shape."""
        x = residual(self.config, x.shape[-1], "block_0")(x)
        if self.config.mid_attention:
            x = PixelAttention(self.config, name="attention")(x)
        return residual(self.config, x.shape[-1], "block_1")(x)


class Out(nn.Module):
    """The last norm, SiLU and convolution."""

    config: AutoencoderConfig
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, H, W, C]`` to ``[B, H, W, F]``."""
        x = jax.nn.silu(GroupNorm(self.config.norm_groups, self.config.epsilon, name="norm")(x))
        return Convolution(self.features, name="conv")(x)


class Encoder(nn.Module):
    """A picture to twice the latent's channels."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, H, W, C]`` to ``[B, h, w, 2 c]``."""
        c = self.config
        x = Convolution(c.channels[0], name="conv_in")(x)
        for i, features in enumerate(c.channels):
            for j in range(c.layers_per_block):
                x = residual(c, features, f"level_{i}_block_{j}")(x)
            if i + 1 < len(c.channels):  # zeros below and on the right only
                x = Convolution(features, stride=2, padding=((0, 1), (0, 1)), name=f"level_{i}_down")(x)
        x = Middle(c, name="middle")(x)
        return Out(c, 2 * c.latent_channels, name="out")(x)


class Decoder(nn.Module):
    """A latent to a picture. Levels are numbered as the encoder's, so the last comes first."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, h, w, c]`` to ``[B, H, W, C]``."""
        c = self.config
        x = Middle(c, name="middle")(Convolution(c.channels[-1], name="conv_in")(x))
        for i, features in reversed(list(enumerate(c.channels))):
            for j in range(c.layers_per_block + 1):
                x = residual(c, features, f"level_{i}_block_{j}")(x)
            if i > 0:
                size = 2 * x.shape[1], 2 * x.shape[2]
                x = UpsampledConvolution(features, name=f"level_{i}_up")(x, size)
        return Out(c, c.image_channels, name="out")(x)


class AutoencoderKL(nn.Module):
    """An encoder to a diagonal Gaussian and a decoder.

    Parameters are ``encoder``, ``decoder``, ``quant_conv`` and ``post_quant_conv``, those that the config has.
    """

    config: AutoencoderConfig

    def setup(self) -> None:
        """Makes the parts."""
        c = self.config
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        if c.quant_conv:
            self.quant_conv = Convolution(2 * c.latent_channels, 1)
        if c.post_quant_conv:
            self.post_quant_conv = Convolution(c.latent_channels, 1)

    def __call__(self, image: Array) -> Array:
        """``image [B, H, W, C]`` through the mean of its latent and back, ``[B, H, W, C]``."""
        return self.decode(self.encode(image)[0])

    def encode(self, image: Array) -> tuple[Array, Array]:
        """The mean and the logarithm of the variance of a picture's latent.

        Args:
          image: ``[B, H, W, C]`` in [-1, 1], height and width divisible by ``config.factor``.

        Returns:
          Two arrays ``[B, h, w, c]`` in float32 or better.

        Raises:
          InputError: the shape does not fit.
        """
        c = self.config
        sizes = require("image", image, f"B H W {c.image_channels}")
        if sizes["H"] % c.factor or sizes["W"] % c.factor:
            raise InputError(f"image is {sizes['H']} x {sizes['W']}; multiples of the factor {c.factor} are needed")
        moments = self.encoder(image.astype(c.compute_dtype))
        moments = self.quant_conv(moments) if c.quant_conv else moments
        mean, logvar = jnp.split(moments.astype(jnp.promote_types(jnp.float32, moments.dtype)), 2, axis=-1)
        return mean, jnp.clip(logvar, LEAST_LOGVAR, MOST_LOGVAR)

    def decode(self, latents: Array) -> Array:
        """The picture ``[B, H, W, C]``, about in [-1, 1] and in float32 or better, of latents ``[B, h, w, c]``.

        Latents are those of `encode`; `from_latents` gives them from a denoiser's.

        Raises:
          InputError: the shape does not fit.
        """
        c = self.config
        require("latents", latents, f"B h w {c.latent_channels}")
        x = latents.astype(c.compute_dtype)
        image = self.decoder(self.post_quant_conv(x) if c.post_quant_conv else x)
        return image.astype(jnp.promote_types(jnp.float32, image.dtype))


def draw(mean: Array, logvar: Array, keys: Array | None) -> Array:
    """A sample of the Gaussian for each row's key ``[B]``, or its mean where that is None; ``[B, h, w, c]``."""
    if keys is None:
        return mean
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return mean + jnp.exp(0.5 * logvar) * noise


def to_latents(config: AutoencoderConfig, mean: Array, logvar: Array, keys: Array | None = None) -> Array:
    """What a denoiser works on, about of unit variance: ``(z - shift_factor) * scaling_factor``, z from `draw`."""
    return (draw(mean, logvar, keys) - config.shift_factor) * config.scaling_factor


def from_latents(config: AutoencoderConfig, latents: Array) -> Array:
    """What `AutoencoderKL.decode` takes, from a denoiser's latents: the inverse of `to_latents`."""
    return latents / config.scaling_factor + config.shift_factor


SD_AUTOENCODER = AutoencoderConfig()  # Stable Diffusion 1 and 2
SDXL_AUTOENCODER = AutoencoderConfig(scaling_factor=0.13025)
SD3_AUTOENCODER = AutoencoderConfig(
    latent_channels=16, quant_conv=False, post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609
)
FLUX_AUTOENCODER = dataclasses.replace(SD3_AUTOENCODER, scaling_factor=0.3611, shift_factor=0.1159)
