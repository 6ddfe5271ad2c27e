"""The policy gradient of sampled completions, clipped or not: PPO, RLOO, GRPO and its descendants as one objective.

They differ in what one ratio spans (a token or a completion), where it is clipped, by what the sum over tokens is
divided, and whether the divergence is in the loss. Advantages are data (`fmzoo.objectives.advantages`).
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Batch, Mean, ObjectiveFn, Terms, divide, weighted_mean
from fmzoo.objectives.divergence import ESTIMATORS, Estimator, divergence
from fmzoo.objectives.log_probs import (
    segments_of,
    sequence_sums,
    sequences_that_count,
    spread,
    token_log_probs,
)

Array = jax.Array


def reinforce_losses(log_probs: Array, advantages: Array) -> Array:
    """``-A log pi``, ``[...]`` (Williams 1992)."""
    return -jax.lax.stop_gradient(advantages) * log_probs


def clipped_losses(
    log_probs: Array, old_log_probs: Array, advantages: Array, *, low: float = 0.2, high: float = 0.2
) -> Array:
    """``max(-A r, -A clip(r, 1 - low, 1 + high))`` with ``r = exp(log_probs - old_log_probs)``.

    PPO (arXiv 1707.06347, eq. 7); DAPO clips higher than lower (2503.14476, section 3.1).

    Args:
      log_probs: of the policy, ``[...]``.
      old_log_probs: of the policy that drew the tokens, ``[...]``.
      advantages: A, ``[...]``.
      low: how far the ratio may fall.
      high: how far it may rise.
    """
    ratio, advantages = jnp.exp(log_probs - old_log_probs), jax.lax.stop_gradient(advantages)
    return jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 1 - low, 1 + high))


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """Which policy gradient; `POLICY_LOSSES` has the published ones.

    Attributes:
      ratio: what one ratio spans: each ``token``, or the whole ``sequence``.
      clip: do so; else the loss is ``-A log pi``, the same gradient while the policy is the one that drew.
      clip_low: how far a ratio may fall.
      clip_high: how far it may rise.
      mean: over all ``tokens`` of the batch; over ``sequences``, of each one's mean over its tokens; or over
        sequences of each one's sum over a ``constant`` length.
      length: that constant.
      kl: coefficient of the divergence in the loss, averaged likewise, a term of its own.
      kl_estimator: of the divergence.
    """

    ratio: Literal["token", "sequence"] = "token"
    clip: bool = True
    clip_low: float = 0.2
    clip_high: float = 0.2
    mean: Literal["tokens", "sequences", "constant"] = "tokens"
    length: int | None = None
    kl: float = 0.0
    kl_estimator: Estimator = "k3"

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        options = {"ratio": ("token", "sequence"), "mean": ("tokens", "sequences", "constant")}
        for name, accepted in {**options, "kl_estimator": ESTIMATORS}.items():
            if getattr(self, name) not in accepted:
                raise InputError(f"policy {name} is {getattr(self, name)!r}; one of {', '.join(accepted)} is needed")
        for name in ("clip_low", "clip_high", "kl"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"policy {name} is {getattr(self, name)}; at least 0 is needed")
        if self.mean == "constant" and not (self.length and self.length > 0):
            raise InputError(f"policy length is {self.length}; the tokens of the longest completion are needed")


POLICY_LOSSES = {
    "ppo": PolicyLoss(),  # arXiv 1707.06347; over all tokens of the batch, as TRL and lm-human-preferences
    "rloo": PolicyLoss(ratio="sequence", clip=False, mean="sequences"),  # 2402.14740, eq. 8; TRL's clips
    "grpo": PolicyLoss(mean="sequences", kl=0.04),  # 2402.03300, eq. 3-4 and section 4.2
    "dr_grpo": PolicyLoss(mean="constant", length=1024),  # 2503.20783, section 3.1; the length is the budget's
    "dapo": PolicyLoss(clip_high=0.28),  # 2503.14476, eq. 8
}


class Drawn(NamedTuple):
    """What the losses read of a batch, cleaned where the weight is 0."""

    weights: Array  # [B, T]
    advantages: Array  # [B, T], or of sequences [B] or [B, S]
    segment_ids: Array | None  # int32[B, T]
    segments: int | None  # S

    def sums(self, values: Array) -> Array:
        """Over each sequence."""
        return sequence_sums(values, self.weights, self.segment_ids, self.segments)

    def there(self) -> Array:
        """1.0 for each sequence that counts."""
        return sequences_that_count(self.weights, self.segment_ids, self.segments)


def policy_gradient(
    module: nn.Module,
    loss: PolicyLoss,
    *,
    reference: str = "reference",
    chunk: int | None = None,
    temperature: float = 1.0,
) -> ObjectiveFn:
    """The policy gradient of completions that were drawn and judged before.

    Batch fields: ``inputs, targets int32[B, T]``; ``weights float32[B, T]``, 1 on the tokens that the policy drew (a
    row of zeros does not count); ``advantages float32[B]``, or ``[B, S]`` of packed rows, or ``[B, T]`` by token where
    ratios are (and then a row is taken for one sequence); ``old_log_probs float32[B, T]`` of the policy that drew them
    (without them it is the policy as it is now); ``reference_log_probs float32[B, T]`` if they are cached;
    ``segment_ids`` and ``positions``; ``example_id``.

    Args:
      module: a decoder.
      loss: which one.
      reference: the frozen tree of the divergence's reference, where the batch has no log-probs of it.
      chunk: positions of which logits are held at a time; None holds all.
      temperature: at which the tokens were drawn.

    Returns:
      An objective with the term ``policy``, and ``divergence`` if ``loss.kl`` is not 0, and the metrics ``clipped``
      (the share of ratios whose gradient the clip took) and ``old_kl`` (nats a token from the policy that drew); with
      ``old_log_probs`` and ``reference_log_probs`` in the batch also ``kl``, nats a sequence between these two.
    """

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del rng, statistics
        log_probs = token_log_probs(module, params, batch, chunk=chunk, temperature=temperature)
        told = clean(batch)
        if loss.kl and "reference_log_probs" not in told:
            found = token_log_probs(module, frozen[reference], batch, chunk=chunk, temperature=temperature)
            told["reference_log_probs"] = jax.lax.stop_gradient(found)
        return policy_terms(log_probs, told, loss)

    return objective


def clean(batch: Batch) -> Batch:
    """The batch with 0 for each number by token whose weight is 0, so that what stands there cannot count."""
    counted, clean = batch["weights"] != 0, dict(batch)
    for name in ("old_log_probs", "reference_log_probs", "values", "returns"):
        if name in batch:
            clean[name] = jnp.where(counted, batch[name], 0)
    return clean


def policy_terms(log_probs: Array, batch: Batch, loss: PolicyLoss) -> tuple[Terms, Terms]:
    """The terms and metrics of `policy_gradient` from log-probabilities ``[B, T]``.

    Raises:
      InputError: advantages have a shape that the loss cannot use.
    """
    drawn = _drawn(batch, loss)
    old = batch.get("old_log_probs", jax.lax.stop_gradient(log_probs))
    losses, clipped, weights = _losses(log_probs, old, drawn, loss)
    terms = {"policy": _average(losses, drawn, loss)}
    metrics = {"clipped": weighted_mean(clipped, weights)}
    metrics["old_kl"] = weighted_mean(divergence(old, log_probs, "k1"), drawn.weights)
    if loss.kl:
        apart = divergence(log_probs, batch["reference_log_probs"], loss.kl_estimator)
        terms["divergence"] = _average(loss.kl * apart, drawn, loss)
    if "old_log_probs" in batch and "reference_log_probs" in batch:
        apart = drawn.sums(old - batch["reference_log_probs"])
        metrics["kl"] = weighted_mean(apart, drawn.there())
    return terms, metrics


def _drawn(batch: Batch, loss: PolicyLoss) -> Drawn:
    advantages, weights = batch["advantages"], batch["weights"]
    segment_ids = batch.get("segment_ids")
    by_token = advantages.shape == weights.shape
    if by_token and loss.ratio == "sequence":
        raise InputError(f"advantages have shape {advantages.shape}; [B] or [B, S], one a sequence, is needed")
    segments = None if by_token else segments_of("advantages", advantages)
    there = weights if by_token else sequences_that_count(weights, segment_ids, segments)
    return Drawn(weights, jnp.where(there != 0, advantages, 0), segment_ids, segments)


def _losses(log_probs: Array, old: Array, drawn: Drawn, loss: PolicyLoss) -> tuple[Array, Array, Array]:
    """Losses and which ratios are clipped, with the weights of these, by token or by sequence."""
    advantages, weights = drawn.advantages, drawn.weights
    if loss.ratio == "sequence":
        log_probs, old, weights = drawn.sums(log_probs), drawn.sums(old), drawn.there()
    elif advantages.shape != log_probs.shape:
        advantages = spread(advantages, log_probs, drawn.segment_ids)
    ratio = jnp.exp(log_probs - old)
    beyond = ((ratio > 1 + loss.clip_high) & (advantages > 0)) | ((ratio < 1 - loss.clip_low) & (advantages < 0))
    if not loss.clip:
        return reinforce_losses(log_probs, advantages), jnp.zeros_like(ratio), weights
    losses = clipped_losses(log_probs, old, advantages, low=loss.clip_low, high=loss.clip_high)
    return losses, beyond.astype(ratio.dtype), weights


def _average(losses: Array, drawn: Drawn, loss: PolicyLoss) -> Mean:
    """The Mean over tokens or sequences of losses by token ``[B, T]`` or by sequence."""
    there = drawn.there()
    if losses.shape != drawn.weights.shape:
        return weighted_mean(losses, there)
    if loss.mean == "tokens":
        return weighted_mean(losses, drawn.weights)
    sums = drawn.sums(losses)
    if loss.mean == "constant":
        return weighted_mean(sums / loss.length, there)
    return weighted_mean(divide(Mean(sums, drawn.sums(jnp.ones_like(losses)))), there)
