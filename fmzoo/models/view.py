"""What a call of the decoder has its layers see: positions, masks, rotary angles and slots of the cache."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmzoo.models import cache as caching
from fmzoo.models.attention import Mask, alibi_bias
from fmzoo.models.config import DecoderConfig, Kind, RopeConfig
from fmzoo.models.positions import rope_angles

Array = jax.Array
Tree = dict[str, Any]


class View(NamedTuple):
    """What all layers of a kind share in one call."""

    mask: Mask
    seen: Array | None  # bool[B or 1, T, S], the mask in full; None where a kernel takes it in parts
    bias: Array | None  # [B or 1, N, T, S], ALiBi's
    angles: tuple[Array, Array] | None  # cos and sin [B or 1, T, R / 2]
    slots: Array | None  # int32[B, T], where the cache takes the new keys
    whole: bool  # the cache holds all that is seen once the new keys are in; else it is seen beside them


def count_positions(tokens: Array, segment_ids: Array | None, cache: Tree | None) -> Array:
    """Positions from 0 in each segment ``int32[B or 1, T]``, or on from what the cache holds, pads not counted."""
    batch, length = tokens.shape
    index = jnp.arange(length, dtype=jnp.int32)[None]
    if cache is not None:
        start = jnp.max(jnp.concatenate(list(cache["position"].values()), axis=1), axis=1, keepdims=True) + 1
        filled = jnp.ones((batch, length), jnp.int32) if segment_ids is None else (segment_ids > 0).astype(jnp.int32)
        return start + jnp.cumsum(filled, axis=1, dtype=jnp.int32) - 1
    if segment_ids is None:
        return index
    starts = jnp.concatenate([jnp.ones((batch, 1), bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def look(
    config: DecoderConfig, kind: Kind, positions: Array, segments: Array | None, cache: Tree | None, in_order: bool
) -> tuple[View, Array | None]:
    """What layers of a kind share in this call, and the positions that their cache then holds."""
    attention, window = config.attention, config.attention.window if kind == "local" else None
    table = slots = None
    seen_positions, whole = positions, True
    if cache is not None:
        old = cache["position"][kind]
        slots = caching.choose_slots(positions, old.shape[1], ring=window is not None)
        table = caching.write_positions(old, positions, slots)
        whole = window is None or positions.shape[1] == 1
        seen_positions = table if whole else jnp.concatenate([old, positions], axis=1)
    mask = Mask(positions, seen_positions, segments, segments, window, in_order)
    plain = cache is not None or attention.implementation == "xla"
    bias = alibi_bias(mask, attention.num_heads, config.compute_dtype) if config.position == "alibi" else None
    angles = None
    if config.position == "rope" and kind != "nope":
        angles = rope_angles(rope_of(config, kind), attention.rotary_dim, positions, config.compute_dtype)
    return View(mask, mask.dense() if plain else None, bias, angles, slots, whole), table


def rope_of(config: DecoderConfig, kind: Kind) -> RopeConfig:
    """How layers of a kind turn their positions."""
    return config.local_rope if kind == "local" and config.local_rope is not None else config.rope
