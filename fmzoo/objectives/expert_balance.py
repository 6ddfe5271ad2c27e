"""Losses of a mixture's routers: that experts are used alike, and that logits stay small.

The blocks of a decoder report sums over the tokens of each row. The balance loss multiplies two means over the whole
batch; one of them has no gradient and is prepared first, so that the other is a sum like any other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmzoo.models import ExpertsConfig
from fmzoo.objectives.contract import Mean, Terms

Array = jax.Array


class RouterSums(NamedTuple):
    """Sums over the tokens of a batch that count, for the L layers that have experts."""

    tokens: Array  # shape=(), how many there are
    assigned: Array  # [L, E], how many tokens chose each expert
    probability: Array  # [L, E]
    squared_normaliser: Array  # [L]


def sum_reports(reports: Any, weights: Array, segment_ids: Array | None) -> RouterSums:
    """The sums of a batch from what `Decoder.features` reports.

    Args:
      reports: ``{group: {slot: {name: [B, ...]}}}``, those of the period ``[n, B, ...]``.
      weights: ``[B, T]`` of the batch; a row of which none counts takes no part. Other tokens of weight 0, such as a
        prompt's, are routed like any and count.
      segment_ids: ``int32[B, T]``; 0 is a pad, which the reports leave out. None is no pad.
    """
    rows = jnp.any(weights != 0, axis=-1)
    counted = jnp.broadcast_to(rows[:, None], weights.shape) & (True if segment_ids is None else segment_ids > 0)
    found: dict[str, list[Array]] = {}
    for group, slots in reports.items():
        for name, values in ((name, values) for report in slots.values() for name, values in report.items()):
            values = values if group == "period" else values[None]
            inside = rows.reshape(1, -1, *(1,) * (values.ndim - 2))
            found.setdefault(name, []).append(jnp.sum(jnp.where(inside, values, 0), axis=1))
    sums = {name: jnp.concatenate(parts) for name, parts in found.items()}
    tokens = jnp.sum(counted, dtype=sums["assigned"].dtype)
    return RouterSums(tokens, sums["assigned"], sums["probability"], sums["squared_normaliser"])


def load_means(sums: RouterSums, config: ExpertsConfig) -> Terms:
    """``expert_load [L, E]``: the share of all choices that fell on each expert, as a Mean to be summed and divided."""
    return {"expert_load": Mean(sums.assigned, sums.tokens * config.top_k)}


def balance_term(sums: RouterSums, load: Array, coefficient: float) -> Mean:
    """``coefficient * E * sum over experts of load * mean probability``, the mean over layers: 1 if all are alike.

    Switch Transformer (arXiv 2101.03961, eq. 4-6), with shares of all k choices as in DeepSeek-V3 (2412.19437, eq.
    17-20), over the whole batch and each layer for itself.

    Args:
      sums: of a part of the batch.
      load: ``[L, E]``, of the whole batch: the statistic that `load_means` prepares.
      coefficient: of the loss.
    """
    layers, experts = load.shape
    return Mean(coefficient * experts / layers * jnp.sum(load * sums.probability), sums.tokens)


def normaliser_term(sums: RouterSums, coefficient: float) -> Mean:
    """``coefficient * logsumexp(router logits)^2``, mean over tokens and layers (ST-MoE, arXiv 2202.08906, eq. 5)."""
    return Mean(coefficient * jnp.mean(sums.squared_normaliser), sums.tokens)


def peak_load(sums: RouterSums, load: Array) -> Mean:
    """How many times its fair share the busiest expert of a layer has, the mean over layers; a metric."""
    peak = jnp.mean(jnp.max(load, axis=-1)) * load.shape[-1]
    return Mean(peak * sums.tokens, sums.tokens)
