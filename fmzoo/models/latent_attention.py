"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): all heads read one narrow latent a token.

Keys and values are linear in the latent, so there are two ways to the same scores: `expanded` makes every head's keys
and values, `absorbed` takes the queries through the key's weights instead and attends to the latents themselves, of
which each is read once for all heads. The cache holds latents either way.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmzoo.models.attention import INSIDE, attend, weigh
from fmzoo.models.config import AttentionConfig, DecoderConfig, Kind, NormConfig
from fmzoo.models.dropout import fold
from fmzoo.models.norms import Norm
from fmzoo.models.positions import rotate
from fmzoo.models.projection import Affine, Node, Weights, as_array, project
from fmzoo.models.view import View, rope_of

Array = jax.Array


class LatentAttention(nn.Module):
    """Projections through latents, positions, cache and attention of one layer."""

    config: DecoderConfig
    kind: Kind

    @nn.compact
    def __call__(
        self, x: Array, view: View, cache: dict[str, Array] | None, keys: Array | None
    ) -> tuple[Array, dict[str, Array] | None]:
        """``x [B, T, D]`` to ``[B, T, D]`` and the layer's new cache ``latent [B, S, kv_rank + rope_dim]``."""
        c, a, latent = self.config, self.config.attention, self.config.attention.latent
        norm = NormConfig(epsilon=latent.norm_epsilon)
        q = self._queries(x, norm)
        down = self._weights("key_value_down", c.d_model, latent.kv_rank + latent.rope_dim, a.qkv_bias)(x)
        compressed, turned = jnp.split(down, [latent.kv_rank], axis=-1)
        if view.angles is not None:
            interleaved = rope_of(c, self.kind).interleaved
            still, turning = jnp.split(q, [a.head_dim - latent.rope_dim], axis=-1)
            q = jnp.concatenate([still, rotate(turning, view.angles, interleaved)], axis=-1)
            turned = rotate(turned[:, :, None], view.angles, interleaved)[:, :, 0]
        latents = jnp.concatenate([Norm(norm, name="key_value_norm")(compressed), turned], axis=-1)
        if cache is not None:
            old, cache = cache["latent"], write_latents(cache, latents, view.slots)
            latents = cache["latent"] if view.whole else jnp.concatenate([old, latents], axis=1)
        features = a.num_heads * (a.head_dim - latent.rope_dim + latent.value_dim)
        up = self._weights("key_value_up", latent.kv_rank, features).kernel
        form = absorbed if cache is not None and absorbing_pays(a, x.shape[1], latents.shape[1]) else expanded
        options = {
            "scale": a.head_dim**-0.5 if a.scale is None else a.scale, "softcap": a.logit_softcap, "bias": view.bias,
            "dropout_keys": fold(keys, 0), "dropout_rate": a.dropout,
            "in_order": view.mask.in_order, "window": view.mask.window,
        }  # fmt: skip
        if self.is_mutable_collection(INSIDE) and not self.is_initializing():
            scores = {name: options[name] for name in ("scale", "bias", "softcap")}
            self.sow(INSIDE, "weights", weigh(q, expand(a, latents, up)[0], view.seen, **scores))
        y = form(a, q, latents, up, view.seen, **options).reshape(*x.shape[:2], -1)
        return self._weights("out", y.shape[-1], c.d_model, a.out_bias, 0.5 / c.num_layers)(y), cache

    def _queries(self, x: Array, norm: NormConfig) -> Array:
        """``[B, T, N, H]``, from a latent of their own if there is one."""
        c, a, rank = self.config, self.config.attention, self.config.attention.latent.q_rank
        features = a.num_heads * a.head_dim
        if rank is None:
            q = self._weights("query", c.d_model, features)(x)
        else:
            narrow = self._weights("query_down", c.d_model, rank, a.qkv_bias)(x)
            q = self._weights("query_up", rank, features)(Norm(norm, name="query_norm")(narrow))
        return q.reshape(*x.shape[:2], a.num_heads, a.head_dim)

    def _weights(self, name: str, inputs: int, features: int, use_bias: bool = False, scale: float = 1.0) -> Affine:
        return Weights(features, use_bias, scale, self.config.transposed_inputs, name=name)(inputs)


def expanded(a: AttentionConfig, q: Array, latents: Array, up: Array | Node, seen: Array, **options: object) -> Array:
    """Attention to every head's own keys and values, made from the latents.

    Args:
      a: the config.
      q: ``[B, T, N, H]``, its last ``rope_dim`` dimensions turned.
      latents: ``[B, S, kv_rank + rope_dim]``: what keys and values come from, then the turned key of all heads.
      up: ``[kv_rank, N * (H - rope_dim + value_dim)]``, in each head first the key's part, then the value's.
      seen: ``bool[B or 1, T, S]``.
      **options: of `fmzoo.models.attend`.

    Returns:
      ``[B, T, N, value_dim]``.
    """
    return attend(q, *expand(a, latents, up), seen, **options)


def expand(a: AttentionConfig, latents: Array, up: Array | Node) -> tuple[Array, Array]:
    """Every head's own keys ``[B, S, N, H]`` and values ``[B, S, N, value_dim]``."""
    rank, still = a.latent.kv_rank, a.head_dim - a.latent.rope_dim
    made = project(latents[..., :rank], up).reshape(*latents.shape[:2], a.num_heads, -1)
    turned = jnp.broadcast_to(latents[:, :, None, rank:], (*made.shape[:3], a.latent.rope_dim))
    return jnp.concatenate([made[..., :still], turned], axis=-1), made[..., still:]


def absorbed(a: AttentionConfig, q: Array, latents: Array, up: Array | Node, seen: Array, **options: object) -> Array:
    """Attention to the latents as the one key and value of all heads; arguments and result are those of `expanded`."""
    rank, still = a.latent.kv_rank, a.head_dim - a.latent.rope_dim
    heads = as_array(up).astype(q.dtype).reshape(rank, a.num_heads, -1)
    through = jnp.einsum("btnh,cnh->btnc", q[..., :still], heads[..., :still])
    # The turned part stays in the values, and is cut off after: the latents are read as they lie, not copied.
    y = attend(
        jnp.concatenate([through, q[..., still:]], axis=-1), latents[:, :, None], latents[:, :, None], seen, **options
    )
    return jnp.einsum("btnc,cnv->btnv", y[..., :rank], heads[..., still:])


def absorbing_pays(a: AttentionConfig, queries: int, keys: int) -> bool:
    """Whether `absorbed` takes fewer multiplications than `expanded`."""
    still, turned, rank = a.head_dim - a.latent.rope_dim, a.latent.rope_dim, a.latent.kv_rank
    through = rank * (still + a.latent.value_dim)
    wide, narrow = 2 * (rank + turned), still + turned + a.latent.value_dim
    return queries * through + queries * keys * wide < keys * through + queries * keys * narrow


def write_latents(cache: dict[str, Array], latents: Array, slots: Array) -> dict[str, Array]:
    """The cache ``latent [B, S, C]`` with ``latents [B, T, C]`` in slots ``int32[B, T]``; S or more is dropped."""
    if slots.shape == (1, 1):  # XLA on CPU copies the cache for one index, and writes two in place
        slots = jnp.pad(slots, ((0, 0), (0, 1)), constant_values=cache["latent"].shape[1])
        latents = jnp.pad(latents, ((0, 0), (0, 1), (0, 0)))
    rows, latents = np.arange(slots.shape[0])[:, None], latents.astype(cache["latent"].dtype)
    return {"latent": cache["latent"].at[rows, slots].set(latents, mode="drop")}
