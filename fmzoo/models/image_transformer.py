"""What DiT and MMDiT share: patches, fixed positions, adaptive norms, attention over all tokens, feed-forward."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.models.config import NormConfig
from fmzoo.models.image_attention import attend_pixels
from fmzoo.models.norms import Norm, layer_norm
from fmzoo.models.projection import Weights, project_by_name

Array = jax.Array
Heads = tuple[Array, Array, Array]  # queries, keys and values, [B, T, N, H] each


def patchify(x: Array, size: int) -> Array:
    """``[B, H, W, C]`` cut into squares in reading order, ``[B, H W / size^2, size size C]``.

    Raises:
      InputError: the size does not divide height and width.
    """
    batch, height, width, channels = x.shape
    if height % size or width % size:
        raise InputError(f"sample is {height} x {width}; a height and width divisible by patch_size {size} are needed")
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)


def unpatchify(x: Array, height: int, width: int, size: int) -> Array:
    """The inverse of `patchify` for a picture of ``height`` by ``width``."""
    x = x.reshape(x.shape[0], height // size, width // size, size, size, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], height, width, -1)


def sincos_positions(rows: int, columns: int, features: int, side: float) -> Array:
    """Fixed positions of a grid, ``float32[rows, columns, features]`` (arXiv 2212.09748, section 3.2; 2111.06377).

    The grid always spans coordinates 0 to ``side``, whatever its own size. The first half of the features is the
    column's, the second the row's; of each the first half is sines, at wavelengths of 2 pi to 20,000 pi.
    """
    frequencies = 10_000.0 ** -(np.arange(features // 4) / (features // 4))

    def one(count: int) -> np.ndarray:
        angles = np.outer(np.arange(count) * (side / count), frequencies)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)

    shape = (rows, columns, features // 2)
    across, down = jnp.broadcast_to(one(columns)[None], shape), jnp.broadcast_to(one(rows)[:, None], shape)
    return jnp.concatenate([across, down], axis=2)


class Modulation(nn.Module):
    """Numbers for each feature that a condition gives, all 0 at first (adaLN-Zero, arXiv 2212.09748, section 3.2)."""

    parts: int
    features: int

    @nn.compact
    def __call__(self, condition: Array) -> tuple[Array, ...]:
        """``condition [B, D]``, after its SiLU, to ``parts`` arrays ``[B, 1, features]``."""
        y = Weights(self.parts * self.features, True, 0.0, name="projection")(condition.shape[-1])(condition)
        return tuple(jnp.split(y[:, None], self.parts, axis=-1))


def modulate(x: Array, shift: Array, scale: Array, epsilon: float) -> Array:
    """``layer_norm(x) * (1 + scale) + shift`` in float32 or better, then in the dtype of ``x [B, T, D]``."""
    wide = jnp.promote_types(jnp.float32, x.dtype)
    return (layer_norm(x.astype(wide), epsilon) * (1 + scale.astype(wide)) + shift.astype(wide)).astype(x.dtype)


class Projections(nn.Module):
    """Queries, keys and values of one stream of tokens, RMS-normalised by head if asked for."""

    num_heads: int
    head_dim: int
    qk_norm: bool = False
    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Heads:
        """``x [B, T, D]`` to three of ``[B, T, N, H]``."""
        return project_heads(self, x, self.num_heads, self.head_dim, self.qk_norm, self.transposed_inputs)


def project_heads(
    module: nn.Module, x: Array, num_heads: int, head_dim: int, qk_norm: bool, transposed_inputs: bool
) -> Heads:
    """What `Projections` gives, by parameters of a module that calls this while it is set up."""
    features = dict.fromkeys(("query", "key", "value"), num_heads * head_dim)
    flat = project_by_name(module, x, features, use_bias=True, transposing=transposed_inputs)
    q, k, v = (y.reshape(*x.shape[:2], num_heads, head_dim) for y in flat)
    if qk_norm:
        norm = NormConfig(epsilon=1e-6)
        q, k = Norm(norm, name="query_norm")(q), Norm(norm, name="key_norm")(k)
    return q, k, v


class SelfAttention(nn.Module):
    """Attention among the tokens of one stream."""

    num_heads: int
    head_dim: int
    qk_norm: bool = False
    implementation: str = "xla"
    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, T, D]`` to ``[B, T, D]``."""
        q, k, v = project_heads(self, x, self.num_heads, self.head_dim, self.qk_norm, self.transposed_inputs)
        y = attend_pixels(q, k, v, implementation=self.implementation).reshape(*x.shape[:2], -1)
        return Weights(x.shape[-1], True, 1.0, self.transposed_inputs, name="out")(y.shape[-1])(y)


class JointAttention(nn.Module):
    """Attention among the tokens of two streams together, each with weights of its own (arXiv 2403.03206, figure 2)."""

    num_heads: int
    head_dim: int
    qk_norm: bool = False
    context_out: bool = True
    implementation: str = "xla"
    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, image: Array, context: Array) -> tuple[Array, Array | None]:
        """``image [B, T, D]`` and ``context [B, S, D]`` to the same; None for the context without ``context_out``."""
        streams = {"image": image, "context": context}
        options = (self.num_heads, self.head_dim, self.qk_norm, self.transposed_inputs)
        heads = [Projections(*options, name=name)(x) for name, x in streams.items()]
        q, k, v = (jnp.concatenate(parts, axis=1) for parts in zip(*heads, strict=True))
        y = attend_pixels(q, k, v, implementation=self.implementation).reshape(*q.shape[:2], -1)
        parts = dict(zip(streams, jnp.split(y, [image.shape[1]], axis=1), strict=True))

        def out(name: str) -> Array:
            width, transposing = streams[name].shape[-1], self.transposed_inputs
            return Weights(width, True, 1.0, transposing, name=f"{name}_out")(y.shape[-1])(parts[name])

        return out("image"), out("context") if self.context_out else None


class FeedForward(nn.Module):
    """``gelu(x U + b) D + c`` with the tanh form of GELU."""

    d_ff: int
    transposed_inputs: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, T, D]`` to ``[B, T, D]``."""
        up = Weights(self.d_ff, True, 1.0, self.transposed_inputs, name="up")(x.shape[-1])
        down = Weights(x.shape[-1], True, 1.0, self.transposed_inputs, name="down")(self.d_ff)
        return down(jax.nn.gelu(up(x), approximate=True))
