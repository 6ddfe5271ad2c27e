"""The decoding cache: a tree of arrays in the shape of the layers, with the position that each slot holds.

A token at position p lives in slot ``p mod S``. S is the whole length for a global layer and the window for a local one
(a ring), so pads on either side of a prompt take no slot and rows of unequal length share one batch. Keys lie with
their slots innermost and values with their widths, as the two products of attention read them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fmzoo.models.config import DecoderConfig, Kind

Array = jax.Array


def slot_count(config: DecoderConfig, kind: Kind, length: int) -> int:
    """How many slots a layer keeps for sequences of up to ``length`` tokens."""
    return min(length, config.attention.window) if kind == "local" else length


def init_cache(config: DecoderConfig, batch: int, length: int, *, stacked: bool = True) -> dict[str, Any]:
    """An empty cache.

    Args:
      config: of the decoder.
      batch: B.
      length: the longest sequence, prompt and answer together, that it must hold.
      stacked: the period's layers on one leading axis, as the parameters are; else a list of layers (`unstack`).

    Returns:
      ``position {kind: int32[B, S]}`` (-1 is empty) and for each layer of ``prefix``, ``period`` and ``tail``
      ``k [B, K, H, S]`` and ``v [B, K, S, H]``, or ``latent [B, S, kv_rank + rope_dim]``, the period's with a leading
      axis of its repetitions, in the compute dtype.
    """

    def layer(kind: Kind, *leading: int) -> dict[str, Array]:
        a, slots = config.attention, slot_count(config, kind, length)
        rows = (*leading, batch, a.num_kv_heads)
        shapes = {"k": (*rows, a.head_dim, slots), "v": (*rows, slots, a.head_dim)}
        if a.latent is not None:
            shapes = {"latent": (*leading, batch, slots, a.latent.kv_rank + a.latent.rope_dim)}
        return {name: jnp.zeros(shape, config.compute_dtype) for name, shape in shapes.items()}

    def period(kind: Kind) -> Any:
        n = config.num_periods
        return layer(kind, n) if stacked else [layer(kind) for _ in range(n)]

    kinds = sorted(set(config.kinds))
    return {
        "position": {k: jnp.full((batch, slot_count(config, k, length)), -1, jnp.int32) for k in kinds},
        "prefix": {str(i): layer(k) for i, k in enumerate(config.prefix)},
        "period": {str(i): period(k) for i, k in enumerate(config.pattern)} if config.num_periods else {},
        "tail": {str(i): layer(k) for i, k in enumerate(config.tail)},
    }


def cache_bytes(config: DecoderConfig, batch: int, length: int) -> int:
    """Bytes of `init_cache`, nothing allocated: keys, values and positions."""
    shapes = jax.eval_shape(lambda: init_cache(config, batch, length))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def choose_slots(positions: Array, size: int, ring: bool) -> Array:
    """The slot of each new token, ``int32[B, T]``; the number S itself for a token that is not kept.

    Args:
      positions: ``int32[B, T]``; below 0 is a pad, never kept.
      size: S.
      ring: keep the last S positions of a row, at ``p mod S``; else position p stands at p, and p >= S is not kept.
    """
    if not ring:
        return jnp.where((positions >= 0) & (positions < size), positions, size)
    newest = jnp.max(positions, axis=1, keepdims=True)
    kept = (positions >= 0) & (positions > newest - size)
    return jnp.where(kept, positions % size, size)


def write_positions(table: Array, positions: Array, slots: Array) -> Array:
    """``int32[B, S]`` with the position that each slot now holds."""
    return table.at[jnp.arange(table.shape[0])[:, None], slots].set(positions, mode="drop")


def split_layers(period: dict[str, Any]) -> list[dict[str, Any]]:
    """The period's layers one by one, ``[{slot: tree}]``, from stacked leaves or lists.

    Splitting has a concatenation as its gradient, where indexing would have a sum of as many padded arrays.
    """
    parts = {}
    for slot, layers in period.items():
        if isinstance(layers, list):
            parts[slot] = layers
            continue
        leaves, structure = jax.tree.flatten(layers)
        pieces = [jax.lax.split(leaf, (1,) * leaf.shape[0], 0) for leaf in leaves]
        parts[slot] = [
            structure.unflatten([p.reshape(p.shape[1:]) for p in layer]) for layer in zip(*pieces, strict=True)
        ]
    return [dict(zip(parts, layer, strict=True)) for layer in zip(*parts.values(), strict=True)]


def unstack(tree: dict[str, Any]) -> dict[str, Any]:
    """Parameters or a cache with the period's layers as a list instead of on a stacked axis.

    Decoding reads every weight once a token; a slice of a stacked weight inside the loop would copy it each time.
    """
    if "period" not in tree or not tree["period"]:
        return tree
    layers = split_layers(tree["period"])
    return {**tree, "period": {slot: [layer[slot] for layer in layers] for slot in tree["period"]}}
