"""Attention as a pure function of ``q, k, v, mask``, by the plain XLA form or a named kernel."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from fmzoo.errors import InputError
from fmzoo.models.dropout import dropout
from fmzoo.models.positions import alibi_slopes

Array = jax.Array


class Mask(struct.PyTreeNode):
    """Who may look at whom: a key no later than the query, in its segment, not a pad, within the window.

    Attributes:
      q_positions: ``int32[B or 1, T]``.
      k_positions: ``int32[B or 1, S]``; below 0 is an empty slot.
      q_segments: ``int32[B, T]``, or None where all is one segment.
      k_segments: ``int32[B, S]``, or None; 0 is a pad.
      window: how many keys a query sees, itself included; None is all.
      in_order: positions count up along the row in each segment, so that no later key in the row is seen.
    """

    q_positions: Array
    k_positions: Array
    q_segments: Array | None = None
    k_segments: Array | None = None
    window: int | None = struct.field(pytree_node=False, default=None)
    in_order: bool = struct.field(pytree_node=False, default=False)

    def queried(self) -> Array:
        """``bool[B or 1, T]``, true where the query is no pad."""
        return (self.q_positions >= 0) & (True if self.q_segments is None else self.q_segments > 0)

    def dense(self) -> Array:
        """``bool[B or 1, T, S]``, true where the query may look."""
        distance = self.q_positions[:, :, None] - self.k_positions[:, None, :]
        seen = (distance >= 0) & (self.k_positions >= 0)[:, None, :]
        if self.window is not None:
            seen &= distance < self.window
        if self.q_segments is not None:
            same = self.q_segments[:, :, None] == self.k_segments[:, None, :]
            seen &= same & (self.k_segments > 0)[:, None, :]
        return seen


def alibi_bias(mask: Mask, num_heads: int, dtype: jnp.dtype) -> Array:
    """``-slope * distance`` for each head, ``[B or 1, N, T, S]`` (arXiv 2108.12409, section 3)."""
    distance = mask.q_positions[:, None, :, None] - mask.k_positions[:, None, None, :]
    wide = jnp.promote_types(jnp.float32, dtype)
    return -jnp.asarray(alibi_slopes(num_heads), wide)[None, :, None, None] * distance.astype(wide)


INSIDE = "inside"  # the collection in which layers leave what is asked for (`fmzoo.models.look_inside`)
BLOCKS, SMALLEST_BLOCK = 4, 32  # into how many parts `attend` cuts queries in order, and what is not worth cutting


def attend(
    q: Array,
    k: Array,
    v: Array,
    seen: Array | None,
    *,
    scale: float,
    bias: Array | None = None,
    softcap: float | None = None,
    dropout_keys: Array | None = None,
    dropout_rate: float = 0.0,
    in_order: bool = False,
    window: int | None = None,
) -> Array:
    """``softmax(softcap(q k^T * scale) + bias) v`` (arXiv 1706.03762, eq. 1), heads grouped over keys (2305.13245).

    Queries in order are cut into blocks, each with the keys that it can see: for 4 blocks 5/8 of the work.

    Args:
      q: ``[B, T, N, H]``.
      k: ``[B, S, K, H]`` with N divisible by K.
      v: ``[B, S, K, H]``, or of another width.
      seen: ``bool[B or 1, T, S]``, or None where every query sees all. One that sees nothing gets some finite value.
      scale: of the scores.
      bias: ``[B or 1, N, T, S]`` on the scores, or None.
      softcap: ``c`` of ``c tanh(s / c)`` (arXiv 2408.00118, section 2), or None.
      dropout_keys: a key for each row ``[B]`` to drop probabilities, or None.
      dropout_rate: the share dropped.
      in_order: T = S, and query t sees no key after t nor, with a window, one at ``t - window`` or before: a promise
        about ``seen``.
      window: None is all keys.

    Returns:
      ``[B, T, N, H]``, as wide as ``v``, in the dtype of ``q``; scores and softmax are in float32 or better.
    """
    length = q.shape[1]
    whole = not in_order or length < BLOCKS * SMALLEST_BLOCK or (dropout_keys is not None and dropout_rate > 0)
    ends = [length] if whole else [length * (i + 1) // BLOCKS for i in range(BLOCKS)]
    parts, start = [], 0
    for end in ends:
        first = 0 if whole or window is None else max(0, start - window + 1)
        last = k.shape[1] if whole else end
        queries, keys = slice(start, end), slice(first, last)
        part = _attend_whole(
            q[:, queries], k[:, keys], v[:, keys], None if seen is None else seen[:, queries, keys], scale,
            None if bias is None else bias[:, :, queries, keys], softcap, dropout_keys, dropout_rate,
        )  # fmt: skip
        parts.append(part)
        start = end
    return parts[0] if whole else jnp.concatenate(parts, axis=1)


def _attend_whole(
    q: Array,
    k: Array,
    v: Array,
    seen: Array | None,
    scale: float,
    bias: Array | None,
    softcap: float | None,
    dropout_keys: Array | None,
    dropout_rate: float,
) -> Array:
    batch, length, heads, _ = q.shape
    kv_heads = k.shape[2]
    weights = weigh(q, k, seen, scale=scale, bias=bias, softcap=softcap)
    weights = dropout(weights, dropout_keys, dropout_rate).astype(v.dtype)
    weights = weights.reshape(batch, kv_heads, (heads // kv_heads) * length, -1)
    v = jnp.swapaxes(v, 1, 2)
    return jnp.swapaxes(jnp.matmul(weights, v).reshape(batch, heads, length, v.shape[-1]), 1, 2)


def weigh(q: Array, k: Array, seen: Array | None, *, scale: float, bias: Array | None, softcap: float | None) -> Array:
    """How much each query takes of each key, ``[B, N, T, S]`` in float32 or better; arguments are those of `attend`."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    wide = jnp.promote_types(jnp.float32, q.dtype)
    # Queries that share a key head stand one below the other, so that each product is one plain matrix product a head.
    q = jnp.swapaxes(q * jnp.asarray(scale, q.dtype), 1, 2).reshape(batch, kv_heads, -1, width)
    scores = jnp.matmul(q, jnp.swapaxes(jnp.swapaxes(k, 1, 2), 2, 3), preferred_element_type=wide)
    scores = scores.reshape(batch, heads, length, -1)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if seen is not None:
        scores = jnp.where(seen[:, None], scores, jnp.finfo(wide).min)
    return jax.nn.softmax(scores, axis=-1)


def attend_cudnn(q: Array, k: Array, v: Array, mask: Mask, *, scale: float) -> Array:
    """The same by cuDNN's fused kernel on an NVIDIA GPU, in float16 or bfloat16; shapes as in `attend`."""
    counted = mask.in_order and mask.q_segments is None
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=None if counted else mask.dense()[:, None],
        scale=scale,
        is_causal=counted,
        local_window_size=(mask.window - 1, 0) if counted and mask.window is not None else None,
        implementation="cudnn",
    )


def attend_splash(
    q: Array, k: Array, v: Array, mask: Mask, *, scale: float, softcap: float | None = None, interpret: bool = False
) -> Array:
    """The same by the splash kernel on a TPU (Pallas); shapes as in `attend`, T = S a multiple of 128.

    Args:
      q: ``[B, T, N, H]``.
      k: ``[B, T, K, H]``.
      v: ``[B, T, K, H]``.
      mask: causal within segments and window. Documents must stand in order, as packing puts them, since the kernel
        compares indices, not positions.
      scale: of the scores.
      softcap: ``c`` of ``c tanh(s / c)``, or None.
      interpret: run by Pallas' interpreter, on any device.

    Raises:
      InputError: the length does not divide into blocks.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = q.shape[1], q.shape[2]
    if length % 128 or k.shape[1] != length:
        raise InputError(f"attention splash got length {length}; a multiple of 128 equal for q and k is needed")
    one = masks.CausalMask((length, length))
    if mask.window is not None:
        one = masks.LocalMask((length, length), (mask.window - 1, 0), 0)
    block = next(b for b in (512, 256, 128) if length % b == 0)
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
        block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    make = splash.make_splash_mqa_single_device if k.shape[2] == 1 else splash.make_splash_mha_single_device
    kernel = make(
        masks.MultiHeadMask([one] * heads), block_sizes=sizes, attn_logits_soft_cap=softcap, interpret=interpret
    )
    segments = None
    if mask.q_segments is not None:
        segments = splash.SegmentIds(q=mask.q_segments, kv=mask.k_segments)
    q = jnp.swapaxes(q * jnp.asarray(scale, q.dtype), 1, 2)
    k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    if k.shape[1] == 1:
        k, v = k[:, 0], v[:, 0]
    out = jax.vmap(kernel)(q, k, v, segments) if segments is not None else jax.vmap(kernel)(q, k, v)
    return jnp.swapaxes(out, 1, 2)


def write(cache: dict[str, Array], k: Array, v: Array, slots: Array) -> dict[str, Array]:
    """Puts new keys and values where they belong.

    Args:
      cache: ``k [B, K, H, S]`` and ``v [B, K, S, H]``.
      k: ``[B, T, K, H]``.
      v: ``[B, T, K, H]``.
      slots: ``int32[B, T]``, distinct in a row; S or more is dropped.

    Returns:
      The cache with ``cache["k"][b, :, :, slots[b, t]] = k[b, t]`` and ``cache["v"][b, :, slots[b, t]] = v[b, t]``.
    """
    if slots.shape == (1, 1):  # XLA on CPU copies the cache for one index, and writes two in place
        slots = jnp.pad(slots, ((0, 0), (0, 1)), constant_values=cache["v"].shape[2])
        k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (k, v))
    rows = np.arange(slots.shape[0])[:, None]
    return {
        "k": cache["k"].at[rows, :, :, slots].set(k.astype(cache["k"].dtype), mode="drop"),
        "v": cache["v"].at[rows, :, slots].set(v.astype(cache["v"].dtype), mode="drop"),
    }


def keys_and_values(cache: dict[str, Array]) -> tuple[Array, Array]:
    """What the cache holds as `attend` takes it, ``[B, S, K, H]``; that turns it back, so that nothing moves."""
    return jnp.transpose(cache["k"], (0, 3, 1, 2)), jnp.swapaxes(cache["v"], 1, 2)
