"""Log-probabilities of completions: of each token, and summed or averaged over sequences, packed or not.

A row holds one sequence, or S of them one after another, told apart by ``segment_ids`` 1 to S. What belongs to a
sequence is ``[B]`` in the first case and ``[B, S]`` in the second, and every loss over sequences takes either.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Mean, divide
from fmzoo.objectives.cross_entropy import chunked_cross_entropy, cross_entropy

Array = jax.Array
Fields = Mapping[str, Array]


def sequence_sums(
    values: Array, weights: Array, segment_ids: Array | None = None, segments: int | None = None
) -> Array:
    """Sums of ``values * weights`` over each sequence; weight 0 silences even NaN.

    Args:
      values: ``[..., T]``.
      weights: ``[..., T]``, such as 1 on the tokens of a completion.
      segment_ids: ``int32[..., T]`` of packed rows; 0 is a pad.
      segments: S, how many sequences a row holds at most; None is one a row.

    Returns:
      ``[...]``, or ``[..., S]`` of packed rows, 0 for a sequence that is not there.
    """
    counted = jnp.where(weights != 0, values, 0) * weights.astype(values.dtype)
    if segments is None:
        return jnp.sum(counted, axis=-1)
    return jnp.einsum("...t,...ts->...s", counted, _members(segment_ids, segments).astype(values.dtype))


def sequence_means(
    values: Array, weights: Array, segment_ids: Array | None = None, segments: int | None = None
) -> Array:
    """`sequence_sums` divided by the sums of the weights, 0 where nothing counts."""
    sums = sequence_sums(values, weights, segment_ids, segments)
    return divide(Mean(sums, sequence_sums(jnp.ones_like(values), weights, segment_ids, segments)))


def sequences_that_count(weights: Array, segment_ids: Array | None = None, segments: int | None = None) -> Array:
    """1.0 for each sequence of which some token has weight, else 0.0, ``[B]`` or ``[B, S]``."""
    counted = (weights != 0).astype(weights.dtype)
    return (sequence_sums(counted, counted, segment_ids, segments) > 0).astype(weights.dtype)


def spread(values: Array, like: Array, segment_ids: Array | None = None) -> Array:
    """What belongs to a sequence, ``[B]`` or ``[B, S]``, given to each of its tokens: ``[B, T]``; pads get 0.

    Args:
      values: of the sequences.
      like: ``[B, T]``, for its shape.
      segment_ids: ``int32[B, T]``, of packed rows.
    """
    if values.ndim == 1:
        return jnp.broadcast_to(values[:, None], like.shape)
    return jnp.einsum("bs,bts->bt", values, _members(segment_ids, values.shape[1]).astype(values.dtype))


def last_tokens(counted: Array, segment_ids: Array | None = None, segments: int | None = None) -> Array:
    """Where each sequence has its last token that counts, ``bool[..., T]``.

    Args:
      counted: ``bool[..., T]``.
      segment_ids: ``int32[..., T]`` of packed rows.
      segments: S of packed rows.
    """
    index = jnp.arange(counted.shape[-1])
    members = counted[..., None] if segments is None else counted[..., None] & _members(segment_ids, segments)
    last = jnp.max(jnp.where(members, index[:, None], -1), axis=-2, keepdims=True)  # [..., 1, S]
    return jnp.any(members & (index[:, None] == last), axis=-1)


def segments_of(name: str, values: Array) -> int | None:
    """S of a field that belongs to sequences: None if it is ``[B]``, its second size if it is ``[B, S]``.

    Raises:
      InputError: it has another rank.
    """
    if values.ndim not in (1, 2):
        raise InputError(f"{name} has shape {values.shape}; [B], or [B, S] of packed rows, is needed")
    return values.shape[1] if values.ndim == 2 else None


def _members(segment_ids: Array | None, segments: int) -> Array:
    """``bool[..., T, S]``."""
    if segment_ids is None:
        raise InputError(f"rows of {segments} packed sequences have no segment_ids; int32[B, T] is needed")
    return segment_ids[..., None] == jnp.arange(1, segments + 1)


def hidden_states(module: nn.Module, params: Any, fields: Fields) -> Array:
    """The last hidden states ``[B, T, D]`` of the fields ``inputs``, ``positions`` and ``segment_ids``; no dropout."""
    packing = {"positions": fields.get("positions"), "segment_ids": fields.get("segment_ids")}
    return module.apply({"params": params}, fields["inputs"], **packing, method="features")[0]


def log_probs_of_hidden(
    module: nn.Module, params: Any, hidden: Array, targets: Array, chunk: int | None, temperature: float = 1.0
) -> Array:
    """The log-probability of each target ``[B, T]`` from hidden states ``[B, T, D]``."""

    def unembed(hidden: Array) -> Array:
        logits = module.apply({"params": params}, hidden, method="unembed")
        return logits if temperature == 1 else logits / temperature

    if chunk is None:
        return -cross_entropy(unembed(hidden), targets)
    return -chunked_cross_entropy(unembed, hidden, targets, chunk=chunk)


def token_log_probs(
    module: nn.Module, params: Any, fields: Fields, *, chunk: int | None = None, temperature: float = 1.0
) -> Array:
    """``log p(target | what stands before it)`` of each token, in float32 or better.

    There is no dropout: a policy is compared with a reference, or with itself a moment ago.

    Args:
      module: a decoder, or a `RewardModel` with a language head.
      params: its parameters.
      fields: ``inputs, targets int32[B, T]``, and ``positions, segment_ids int32[B, T]`` if rows are packed or have
        pads on the left.
      chunk: positions of which logits are held at a time; None holds all.
      temperature: divides the logits, where completions were drawn at another than 1.

    Returns:
      ``[B, T]``, in nats.
    """
    hidden = hidden_states(module, params, fields)
    return log_probs_of_hidden(module, params, hidden, fields["targets"], chunk, temperature)
