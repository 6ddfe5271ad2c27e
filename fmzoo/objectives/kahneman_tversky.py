"""Learning from single completions that are good or bad: KTO (arXiv 2402.01306)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.objectives.contract import Batch, Mean, Objective, Terms, weighted_mean
from fmzoo.objectives.log_probs import (
    segments_of,
    sequence_sums,
    sequences_that_count,
    token_log_probs,
)

Array = jax.Array


def kto_losses(
    log_ratios: Array,
    desirable: Array,
    reference_point: Array,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Array:
    """``w_D (1 - sigmoid(beta (r - z)))`` of a good completion, ``w_U (1 - sigmoid(beta (z - r)))`` of a bad one.

    Section 4.1, eq. 7 and 8. No gradient goes through the reference point.

    Args:
      log_ratios: r, ``log (policy / reference)`` summed over a completion's tokens, ``[...]``.
      desirable: 1 of a good completion and 0 of a bad one, ``[...]``.
      reference_point: z of `reference_point`, shape=().
      beta: how much the policy is held to the reference.
      desirable_weight: w_D; the paper wants ``w_D n_D / (w_U n_U)`` between 1 and 4/3 for n_D good and n_U bad ones.
      undesirable_weight: w_U.
    """
    gain = beta * (log_ratios - jax.lax.stop_gradient(reference_point))
    good = desirable > 0.5
    weight = jnp.where(good, desirable_weight, undesirable_weight).astype(gain.dtype)
    return weight * jax.nn.sigmoid(jnp.where(good, -gain, gain))


def reference_point(mean_log_ratio: Array) -> Array:
    """``max(0, mean log-ratio of completions that belong to other prompts)``, an estimate of the divergence."""
    return jax.lax.stop_gradient(jnp.maximum(mean_log_ratio, 0))


def kto(
    module: nn.Module,
    *,
    reference: str = "reference",
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    chunk: int | None = None,
) -> Objective:
    """`kto_losses` of a policy, averaged over completions; the reference point is a statistic of the whole batch.

    Batch fields: ``inputs, targets int32[B, T]``, ``weights float32[B, T]`` (1 on the completion; a row of zeros does
    not count), ``desirable float32[B]``, ``example_id``; the same prompts before completions of other rows as
    ``mismatched_inputs``, ``mismatched_targets`` and ``mismatched_weights``; ``segment_ids`` and ``positions`` (of
    either) if there are pads on the left or packed rows, where ``desirable`` is ``[B, S]``. The reference's sums
    ``reference_completion`` and ``reference_mismatched``, shaped like ``desirable``, are read if they are there.

    Args:
      module: a decoder.
      reference: the frozen tree that log-ratios are taken to.
      beta: as in `kto_losses`.
      desirable_weight: as in `kto_losses`.
      undesirable_weight: as in `kto_losses`.
      chunk: positions of which logits are held at a time; None holds all.

    Returns:
      An objective with the term ``loss`` and the metrics ``reference_point``, ``desirable`` and ``undesirable`` (the
      mean log-ratios of each kind, in nats).
    """

    def log_ratios(params: Any, frozen: dict[str, Any], batch: Batch, side: str) -> tuple[Array, Array]:
        """Log-ratios, and 1.0 where there is a completion, shaped like ``desirable``."""
        fields = side_of(batch, side)
        packing = fields.get("segment_ids"), segments_of("desirable", batch["desirable"])
        there = sequences_that_count(fields["weights"], *packing)

        def sums(params: Any) -> Array:
            log_probs = token_log_probs(module, params, fields, chunk=chunk)
            return sequence_sums(log_probs, fields["weights"], *packing)

        cached = batch.get(f"reference_{side}")
        told = jax.lax.stop_gradient(sums(frozen[reference])) if cached is None else jnp.where(there != 0, cached, 0)
        return sums(params) - told, there

    def prepare(params: Any, frozen: dict[str, Any], batch: Batch, rng: Array) -> Terms:
        del rng
        return {"divergence": weighted_mean(*log_ratios(params, frozen, batch, "mismatched"))}

    def terms(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del rng
        found, there = log_ratios(params, frozen, batch, "completion")
        point = reference_point(statistics["divergence"])
        good = jnp.where(there != 0, batch["desirable"], 0)
        weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
        losses = kto_losses(found, good, point, beta=beta, **weights)
        count = jnp.sum(there)
        metrics = {"reference_point": Mean(point * count, count)}
        metrics["desirable"] = weighted_mean(found, there * (good > 0.5))
        metrics["undesirable"] = weighted_mean(found, there * (good <= 0.5))
        return {"loss": weighted_mean(losses, there)}, metrics

    return Objective(terms, prepare)


def side_of(batch: Batch, side: str) -> Batch:
    """The fields of the completions themselves, or those called ``mismatched_``, by their plain names."""
    prefix = "" if side == "completion" else f"{side}_"
    names = ("inputs", "targets", "weights", "positions", "segment_ids")
    return {name: batch[prefix + name] for name in names if prefix + name in batch}
