"""The U-Net of latent and pixel diffusion, conditioned on a time, tokens, a class, pooled text and sizes."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError, require
from fmzoo.models.activations import ACTIVATIONS
from fmzoo.models.convolution import Convolution, UpsampledConvolution
from fmzoo.models.dropout import fold
from fmzoo.models.norms import GroupNorm
from fmzoo.models.projection import read
from fmzoo.models.resnet import BRANCH_SCALE, ResnetBlock
from fmzoo.models.spatial_transformer import SpatialTransformer
from fmzoo.models.time_embedding import TimeEmbedding, sinusoids
from fmzoo.models.unet_config import UNetConfig
from fmzoo.parallel import constrain_rows

Array = jax.Array


def resnet(config: UNetConfig, features: int, name: str) -> nn.Module:
    """A residual block, recomputed for the gradient if the config says so."""
    c, make = config, nn.remat(ResnetBlock) if config.remat == "full" else ResnetBlock
    return make(features, c.groups, c.epsilon, c.activation, c.scale_shift, c.dropout, name=name)


def transformer(config: UNetConfig, level: int, layers: int, name: str) -> nn.Module:
    """A spatial transformer of a level, recomputed for the gradient if the config says so."""
    c, make = config, nn.remat(SpatialTransformer) if config.remat == "full" else SpatialTransformer
    options = (c.groups, c.attention, c.upcast_attention, c.transposed_inputs)
    return make(layers, c.num_heads[level], *options, name=name)


class DownLevel(nn.Module):
    """The residual blocks of a level, a transformer after each where the config has any, then half the resolution."""

    config: UNetConfig
    level: int

    @nn.compact
    def __call__(self, x: Array, time: Array, context: Array | None, keys: Array | None) -> tuple[Array, list[Array]]:
        """``x [B, H, W, C]`` to the next level's input, and what going up takes from here."""
        c, i, skips = self.config, self.level, []
        for j in range(c.layers[i]):
            x = resnet(c, c.channels[i], f"resnet_{j}")(constrain_rows(x), time, fold(keys, j))
            if c.transformer_layers[i]:
                x = transformer(c, i, c.transformer_layers[i], f"transformer_{j}")(x, context)
            skips.append(x)
        if i + 1 < len(c.channels):
            x = Convolution(c.channels[i], stride=2, name="downsample")(x)
            skips.append(x)
        return x, skips


class Middle(nn.Module):
    """One residual block, or two with a transformer between them, at the coarsest level."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array, time: Array, context: Array | None, keys: Array | None) -> Array:
        """``x [B, H, W, C]`` to the same shape."""
        c, level = self.config, len(self.config.channels) - 1
        x = resnet(c, c.channels[-1], "resnet_0")(constrain_rows(x), time, fold(keys, 0))
        if c.mid == "plain":
            return x
        x = transformer(c, level, c.mid_transformer_layers, "transformer_0")(x, context)
        return resnet(c, c.channels[-1], "resnet_1")(x, time, fold(keys, 1))


class UpLevel(nn.Module):
    """A residual block for each output of the level going down, joined to it, then twice the resolution."""

    config: UNetConfig
    level: int

    @nn.compact
    def __call__(self, x: Array, skips: list[Array], time: Array, context: Array | None, keys: Array | None) -> Array:
        """``x [B, H, W, C]`` to the next finer level's input; takes its skips off the end of the list."""
        c, i = self.config, self.level
        for j in range(c.layers[i] + 1):
            joined = jnp.concatenate([constrain_rows(x), skips.pop()], axis=-1)
            x = resnet(c, c.channels[i], f"resnet_{j}")(joined, time, fold(keys, j))
            if c.up[i]:
                x = transformer(c, i, c.up[i], f"transformer_{j}")(x, context)
        if i > 0:
            x = UpsampledConvolution(c.channels[i], name="upsample")(x, skips[-1].shape[1:3])
        return x


class UNet(nn.Module):
    """A denoiser: residual blocks down to a coarse level and up again, joined level by level.

    Parameters are ``input``, ``time``, ``label`` and ``added`` where the config has them, ``down_i``, ``middle``,
    ``up_i`` with i the level from the finest, ``output_norm`` and ``output``.
    """

    config: UNetConfig

    @nn.compact
    def __call__(
        self,
        sample: Array,
        timesteps: Array,
        context: Array | None = None,
        added: dict[str, Array] | None = None,
        dropout_keys: Array | None = None,
    ) -> Array:
        """What the network says of a noisy sample.

        Args:
          sample: ``[B, H, W, in_channels]``; height and width need not divide by the levels.
          timesteps: ``[B]``, whole or not.
          context: ``[B, S, context_dim]``, the tokens attended to; not read where the config has no cross-attention.
          added: by the config, ``pooled [B, P]`` and ``time_ids [B, n]``, the pooled text and n sizes (original height
            and width, top and left of the crop, then target height and width, or one aesthetic score), with
            ``P + n * added_number_dim = added_dim``; and ``label int32[B]``.
          dropout_keys: a key for each row, ``[B]``; None is no dropout.

        Returns:
          ``[B, H, W, out_channels]`` in float32 or better.

        Raises:
          InputError: a shape does not fit, or what the config needs is not given.
        """
        c, context = self.config, self._check(sample, timesteps, context)
        time = self._time(timesteps, added or {})
        x = Convolution(c.channels[0], name="input")(sample.astype(c.compute_dtype))
        skips, count = [x], len(c.channels)
        for i in range(count):
            x, more = DownLevel(c, i, name=f"down_{i}")(x, time, context, fold(dropout_keys, i))
            skips += more
        if c.mid != "none":
            x = Middle(c, name="middle")(x, time, context, fold(dropout_keys, count))
        for i in reversed(range(count)):
            x = UpLevel(c, i, name=f"up_{i}")(x, skips, time, context, fold(dropout_keys, count + 1 + i))
        x = ACTIVATIONS[c.activation](GroupNorm(c.groups, c.epsilon, name="output_norm")(x))
        x = Convolution(c.out_channels, init_scale=BRANCH_SCALE, name="output")(x)
        return x.astype(jnp.promote_types(jnp.float32, x.dtype))

    def _check(self, sample: Array, timesteps: Array, context: Array | None) -> Array | None:
        """The context in the compute dtype, or None where the network has no use for one."""
        c = self.config
        sizes = require("sample", sample, f"B H W {c.in_channels}")
        require("timesteps", timesteps, "B", sizes)
        if c.context_dim is None or not c.attends:
            return None
        if context is None:
            raise InputError(f"context is None; an array [B, S, {c.context_dim}] is needed")
        require("context", context, f"B S {c.context_dim}", sizes)
        return context.astype(c.compute_dtype)

    def _time(self, timesteps: Array, added: dict[str, Array]) -> Array:
        """The embedding ``[B, E]`` of the time and of everything else that is one vector."""
        c, sizes = self.config, {"B": timesteps.shape[0]}
        features = c.time_dim or 4 * c.channels[0]

        def waves(numbers: Array, width: int) -> Array:
            return sinusoids(numbers, width, sines_first=c.sines_first, frequency_shift=c.frequency_shift)

        def given(name: str, shape: str) -> Array:
            if name not in added:
                raise InputError(f"added has no {name!r}; an array [{shape}] is needed")
            require(name, added[name], shape, sizes)
            return added[name]

        time = waves(timesteps, c.channels[0]).astype(c.compute_dtype)
        time = TimeEmbedding(features, c.activation, name="time")(time)
        if c.num_classes is not None:
            table = read(self, "label", nn.initializers.normal(1.0), (c.num_classes, features))
            time = time + table[given("label", "B")].astype(time.dtype)
        if c.added_dim is not None:
            pooled, numbers = given("pooled", "B P"), given("time_ids", "B N")
            numbers = waves(numbers, c.added_number_dim).reshape(sizes["B"], -1)
            joined = jnp.concatenate([pooled.astype(numbers.dtype), numbers], axis=-1)
            require("pooled with time_ids", joined, f"B {c.added_dim}", sizes)
            time = time + TimeEmbedding(features, name="added")(joined.astype(time.dtype))
        return time
