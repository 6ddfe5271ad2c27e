"""Learning what people prefer: losses of scores, and the objectives of a reward model."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.objectives.contract import Batch, Mean, ObjectiveFn, Terms, divide, weighted_mean
from fmzoo.objectives.log_probs import last_tokens, segments_of, sequence_sums
from fmzoo.objectives.pairs import interleave

Array = jax.Array

# Llama 2 (arXiv 2307.09288), table 27: significantly better, better, slightly better, negligibly better or unsure.
LLAMA2_MARGINS = {"small": (1.0, 2 / 3, 1 / 3, 0.0), "large": (3.0, 2.0, 1.0, 0.0)}


def bradley_terry_losses(chosen: Array, rejected: Array, *, margin: Any = 0.0, label: Any = 1.0) -> Array:
    """``-p log sigmoid(d) - (1 - p) log sigmoid(-d)`` with ``d = chosen - rejected - margin``.

    With the label p = 1 it is Llama 2's loss (arXiv 2307.09288, eq. 2), and InstructGPT's of a pair (2203.02155, eq. 1)
    with margin 0.

    Args:
      chosen: scores of the preferred completions, ``[...]``.
      rejected: scores of the others, ``[...]``.
      margin: by how much the first should lead, ``[...]`` or a number; `LLAMA2_MARGINS` has those of the paper.
      label: p, the probability that the first is indeed the better one, ``[...]`` or a number.
    """
    difference = chosen - rejected - margin
    return -label * jax.nn.log_sigmoid(difference) - (1 - label) * jax.nn.log_sigmoid(-difference)


def centring_losses(chosen: Array, rejected: Array) -> Array:
    """``(chosen + rejected)^2``, which holds scores around 0 (arXiv 2312.09244, section 3.2)."""
    return (chosen + rejected) ** 2


def rating_labels(chosen: Array, rejected: Array, *, scale: float = 1.0) -> Array:
    """The probability that the first is better, ``sigmoid((chosen - rejected) / scale)``, from ratings of both.

    Args:
      chosen: ratings, ``[...]``.
      rejected: ratings, ``[...]``.
      scale: how many points of difference make odds of e to 1.
    """
    return jax.nn.sigmoid((chosen - rejected) / scale)


def ranking_losses(scores: Array, ratings: Array, weights: Array) -> Array:
    """The mean of ``-log sigmoid(r_i - r_j)`` over all pairs of one prompt's K responses of which i is rated higher.

    InstructGPT (arXiv 2203.02155, eq. 1): pairs of one prompt are one example, ``1 / C(K, 2)`` of it each, as a model
    that met them apart would read each response K - 1 times in an epoch and overfit. Responses rated alike make no
    pair, and then it is divided by the number of pairs that there are.

    Args:
      scores: ``[..., K]``.
      ratings: ``[..., K]``, more is better; a rank is a rating of the opposite sign.
      weights: ``[..., K]``; 0 where a prompt has fewer than K responses.

    Returns:
      ``[...]``, 0 where there is no pair.
    """
    better = comparisons(ratings, weights).astype(scores.dtype)
    losses = -jax.nn.log_sigmoid(scores[..., :, None] - scores[..., None, :])
    return divide(Mean(jnp.sum(losses * better, axis=(-2, -1)), jnp.sum(better, axis=(-2, -1))))


def comparisons(ratings: Array, weights: Array) -> Array:
    """``bool[..., K, K]``: both count, and the first is rated higher than the second."""
    there = weights != 0
    return (ratings[..., :, None] > ratings[..., None, :]) & there[..., :, None] & there[..., None, :]


def last_values(values: Array, segment_ids: Array, segments: int | None = None) -> Array:
    """The value at the last token of each sequence, wherever its pads are.

    Args:
      values: ``[..., T]``.
      segment_ids: ``int32[..., T]``; 0 is a pad.
      segments: S of packed rows; None is one sequence a row.

    Returns:
      ``[...]`` or ``[..., S]``; 0 for a sequence that is not there.
    """
    ends = last_tokens(segment_ids > 0, segment_ids, segments)
    return sequence_sums(values, ends, segment_ids, segments)


def score(module: nn.Module, params: Any, fields: Batch, segments: int | None = None) -> Array:
    """The scores of whole texts, ``[B]`` or ``[B, S]``.

    Args:
      module: a `RewardModel`.
      params: its parameters.
      fields: ``inputs int32[B, T]``, each text whole, ``segment_ids int32[B, T]`` (0 is a pad) and perhaps
        ``positions``.
      segments: S of packed rows.
    """
    values = module.apply({"params": params}, fields["inputs"], fields.get("positions"), fields["segment_ids"])
    return last_values(values, fields["segment_ids"], segments)


def paired_scores(module: nn.Module, *, centring: float = 0.0) -> ObjectiveFn:
    """`bradley_terry_losses` of a reward model.

    Batch fields: ``chosen_inputs, chosen_segment_ids int32[B, T]``, whole texts of which 0 marks pads; the same of
    ``rejected_``; ``weights float32[B]``, ``example_id``, and perhaps ``margin`` and ``label``, shaped like
    ``weights``. Packed rows hold pair s in segment s of both sides, and ``weights`` are ``[B, S]``.

    Args:
      module: a `RewardModel`.
      centring: coefficient of a term ``centring``, the mean of `centring_losses`; 0.01 in the paper.

    Returns:
      An objective with the term ``loss``, and ``centring`` if asked for, and the metrics ``accuracy``, ``difference``
      and ``score``, the mean of both.
    """

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen, rng, statistics
        weights = batch["weights"]
        tokens = interleave(batch, "chosen", "rejected")
        flat = {name: value.reshape(-1, value.shape[-1]) for name, value in tokens.items()}
        scores = score(module, params, flat, segments_of("weights", weights))
        scores = scores.reshape(len(weights), 2, *weights.shape[1:])
        chosen, rejected = scores[:, 0], scores[:, 1]
        told = {name: jnp.where(weights != 0, batch[name], 0) for name in ("margin", "label") if name in batch}
        terms = {"loss": weighted_mean(bradley_terry_losses(chosen, rejected, **told), weights)}
        if centring:
            terms["centring"] = weighted_mean(centring * centring_losses(chosen, rejected), weights)
        metrics = {"accuracy": (chosen > rejected).astype(chosen.dtype), "difference": chosen - rejected}
        metrics["score"] = (chosen + rejected) / 2
        return terms, {name: weighted_mean(value, weights) for name, value in metrics.items()}

    return objective


def ranked_scores(module: nn.Module) -> ObjectiveFn:
    """`ranking_losses` of a reward model; a prompt with all its responses is one row, so no split takes them apart.

    Batch fields: ``inputs, segment_ids int32[B, K, T]``, whole texts of which 0 marks pads; ``ratings float32[B, K]``;
    ``weights float32[B, K]``, 0 where there is no response; ``example_id``.

    Args:
      module: a `RewardModel`.

    Returns:
      An objective with the term ``loss``, the mean over prompts that have a pair, and the metric ``accuracy``, over
      pairs.
    """

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen, rng, statistics
        flat = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in ("inputs", "segment_ids")}
        scores = score(module, params, flat).reshape(batch["weights"].shape)
        better = comparisons(batch["ratings"], batch["weights"])
        losses = ranking_losses(scores, batch["ratings"], batch["weights"])
        right = (scores[..., :, None] > scores[..., None, :]).astype(scores.dtype)
        prompts = jnp.any(better, axis=(-2, -1)).astype(losses.dtype)
        return {"loss": weighted_mean(losses, prompts)}, {"accuracy": weighted_mean(right, better)}

    return objective
