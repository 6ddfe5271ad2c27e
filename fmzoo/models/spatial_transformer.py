"""The transformer between the convolutions of a U-Net: pixels attend to each other and to tokens (arXiv 2112.10752)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.activations import ACTIVATIONS
from fmzoo.models.config import NormConfig
from fmzoo.models.image_attention import attend_pixels
from fmzoo.models.norms import GroupNorm, Norm
from fmzoo.models.projection import Weights
from fmzoo.models.resnet import BRANCH_SCALE

Array = jax.Array
NORM = NormConfig(kind="layer", epsilon=1e-5, bias=True)
EXPANSION = 4  # of the feed-forward half


class PixelAttention(nn.Module):
    """Attention of pixels to pixels, or to the tokens of a context."""

    num_heads: int
    implementation: str = "xla"
    upcast: bool = False
    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """``x [B, T, D]`` and ``context [B, S, E]``, or None for ``x`` itself, to ``[B, T, D]``."""
        width = x.shape[-1]
        seen = x if context is None else context

        def heads(name: str, y: Array) -> Array:
            y = Weights(width, False, 1.0, self.transposed_inputs, name=name)(y.shape[-1])(y)
            return y.reshape(*y.shape[:2], self.num_heads, width // self.num_heads)

        q, k, v = heads("query", x), heads("key", seen), heads("value", seen)
        if self.upcast:
            wide = jnp.promote_types(jnp.float32, x.dtype)
            q, k = q.astype(wide), k.astype(wide)
        y = attend_pixels(q, k, v, implementation=self.implementation).reshape(x.shape)
        return Weights(width, True, BRANCH_SCALE, self.transposed_inputs, name="out")(width)(y)


class GatedMlp(nn.Module):
    """``(x U * gelu(x G)) D``, with U and G one kernel ``up`` (GEGLU, arXiv 2002.05202, eq. 6)."""

    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, T, D]`` to ``[B, T, D]``."""
        width, hidden = x.shape[-1], EXPANSION * x.shape[-1]
        both = Weights(2 * hidden, True, 1.0, self.transposed_inputs, name="up")(width)(x)
        up, gate = jnp.split(both, 2, axis=-1)
        y = up * ACTIVATIONS["gelu"](gate)
        return Weights(width, True, BRANCH_SCALE, self.transposed_inputs, name="down")(hidden)(y)


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention if there is a context, and feed-forward, each after a LayerNorm."""

    num_heads: int
    implementation: str = "xla"
    upcast: bool = False
    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, x: Array, context: Array | None) -> Array:
        """``x [B, T, D]`` and ``context [B, S, E]`` or None to ``[B, T, D]``."""

        def attention(name: str) -> PixelAttention:
            options = (self.num_heads, self.implementation, self.upcast, self.transposed_inputs)
            return PixelAttention(*options, name=name)

        x = x + attention("self_attention")(Norm(NORM, name="self_norm")(x))
        if context is not None:
            x = x + attention("cross_attention")(Norm(NORM, name="cross_norm")(x), context)
        return x + GatedMlp(self.transposed_inputs, name="mlp")(Norm(NORM, name="mlp_norm")(x))


class SpatialTransformer(nn.Module):
    """Transformer layers over the pixels of an image, between two projections, added to the image."""

    num_layers: int
    num_heads: int
    groups: int = 32
    implementation: str = "xla"
    upcast: bool = False
    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """``x [B, H, W, C]`` and ``context [B, S, E]`` or None to ``[B, H, W, C]``."""
        batch, rows, columns, width = x.shape
        y = GroupNorm(self.groups, 1e-6, name="norm")(x).reshape(batch, rows * columns, width)
        y = Weights(width, True, 1.0, self.transposed_inputs, name="input")(width)(y)
        for i in range(self.num_layers):
            options = (self.num_heads, self.implementation, self.upcast, self.transposed_inputs)
            y = TransformerLayer(*options, name=f"layer_{i}")(y, context)
        y = Weights(width, True, BRANCH_SCALE, self.transposed_inputs, name="output")(width)(y)
        return x + y.reshape(x.shape)
