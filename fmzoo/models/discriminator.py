"""The patch discriminator that sharpens an autoencoder: is this square of the picture real? (arXiv 1611.07004)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError, require
from fmzoo.models.checks import check, check_options, check_positive
from fmzoo.models.convolution import Convolution
from fmzoo.models.norms import GroupNorm

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The 70 x 70 PatchGAN by default, but for the norm.

    The published one has batch norms, whose statistics tie the rows of a batch together: then no sum over microbatches
    or devices gives the whole batch's gradient. Here a norm is over groups of channels within a row, or there is none.
    """

    image_channels: int = 3
    features: int = 64  # after the first convolution; each further one doubles them, up to 8 times
    num_layers: int = 3  # how often the picture is halved
    norm: Literal["group", "none"] = "group"
    norm_groups: int = 32
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_positive(self, "image_channels", "features", "num_layers", "norm_groups")
        check_options(self, norm=("group", "none"), dtype=("float32", "bfloat16", "float64"))
        check(
            self.norm == "none" or self.features % self.norm_groups == 0,
            f"features is {self.features}; a multiple of norm_groups {self.norm_groups} is needed",
        )

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype(self.dtype)


class PatchDiscriminator(nn.Module):
    """A score for each patch of a picture, high where it looks real."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """``image [B, H, W, C]`` to scores ``[B, h, w]`` in float32 or better, about one for every 2^num_layers pixels.

        Raises:
          InputError: the shape does not fit, or the picture is too small to have a patch.
        """
        c = self.config
        sizes = require("image", image, f"B H W {c.image_channels}")
        least = 3 * 2**c.num_layers
        if min(sizes["H"], sizes["W"]) < least:
            raise InputError(f"image is {sizes['H']} x {sizes['W']}; at least {least} each way is needed")
        x, around = image.astype(c.compute_dtype), ((1, 1), (1, 1))
        for i in range(c.num_layers + 1):
            features, stride = c.features * min(2**i, 8), 2 if i < c.num_layers else 1
            x = Convolution(features, 4, stride, around, name=f"layer_{i}")(x)
            if i > 0 and c.norm == "group":
                x = GroupNorm(c.norm_groups, name=f"norm_{i}")(x)
            x = jax.nn.leaky_relu(x, 0.2)
        x = Convolution(1, 4, 1, around, name="score")(x)[..., 0]
        return x.astype(jnp.promote_types(jnp.float32, x.dtype))
