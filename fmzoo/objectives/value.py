"""Learning what a policy may expect: the clipped value loss, for a model of its own or a head on the policy's trunk."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.objectives.contract import Batch, Mean, ObjectiveFn, Terms, weighted_mean
from fmzoo.objectives.log_probs import hidden_states, log_probs_of_hidden
from fmzoo.objectives.policy_gradient import PolicyLoss, clean, policy_terms

Array = jax.Array


def clipped_value_losses(values: Array, old_values: Array, returns: Array, *, clip: float | None = 0.2) -> Array:
    """``max((V - R)^2, (V_clip - R)^2) / 2`` with V_clip no further than ``clip`` from the old value.

    As openai/lm-human-preferences and TRL's PPO have it; without a clip it is ``(V - R)^2 / 2``.

    Args:
      values: V, ``[...]``.
      old_values: of the model when the samples were drawn, ``[...]``.
      returns: R, ``[...]``.
      clip: in units of the value; None does not clip.
    """
    squares = (values - returns) ** 2
    if clip is not None:
        near = old_values + jnp.clip(values - old_values, -clip, clip)
        squares = jnp.maximum(squares, (near - returns) ** 2)
    return squares / 2


def value_regression(module: nn.Module, *, clip: float | None = 0.2) -> ObjectiveFn:
    """`clipped_value_losses` of a value model.

    Batch fields: ``inputs int32[B, T]``; ``weights, values, returns float32[B, T]``: the tokens that the policy drew,
    the old values before each and the returns from there (`estimate_advantages`); ``segment_ids`` and ``positions``;
    ``example_id``.

    Args:
      module: a `RewardModel`.
      clip: as in `clipped_value_losses`.

    Returns:
      An objective with the term ``value`` and the metrics ``value_error`` (squared) and ``mean_value``.
    """

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen, rng, statistics
        values = _values(module, params, hidden_states(module, params, batch))
        return value_terms(values, clean(batch), clip)

    return objective


def actor_critic(
    module: nn.Module,
    loss: PolicyLoss,
    *,
    value_coefficient: float = 0.1,
    value_clip: float | None = 0.2,
    chunk: int | None = None,
    temperature: float = 1.0,
) -> ObjectiveFn:
    """PPO with a value head on the policy's own trunk, both read from one forward pass.

    Batch fields: those of `policy_gradient` and `value_regression` together; ``loss.kl`` needs ``reference_log_probs``.

    Args:
      module: a `RewardModel` with a language head.
      loss: of the policy.
      value_coefficient: of the term ``value``; 0.1 in lm-human-preferences and TRL.
      value_clip: as in `clipped_value_losses`.
      chunk: positions of which logits are held at a time; None holds all.
      temperature: at which the tokens were drawn.

    Returns:
      An objective with the terms and metrics of both.
    """

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen, rng, statistics
        told, hidden = clean(batch), hidden_states(module, params, batch)
        log_probs = log_probs_of_hidden(module, params, hidden, batch["targets"], chunk, temperature)
        terms, metrics = policy_terms(log_probs, told, loss)
        of_value, told_of_value = value_terms(_values(module, params, hidden), told, value_clip)
        total, weight = of_value["value"]
        return terms | {"value": Mean(value_coefficient * total, weight)}, metrics | told_of_value

    return objective


def value_terms(values: Array, batch: Batch, clip: float | None) -> tuple[Terms, Terms]:
    """The term and metrics of `value_regression` from values ``[B, T]``."""
    weights, returns = batch["weights"], batch["returns"]
    losses = clipped_value_losses(values, batch["values"], returns, clip=clip)
    metrics = {"value_error": weighted_mean((values - returns) ** 2, weights)}
    metrics["mean_value"] = weighted_mean(values, weights)
    return {"value": weighted_mean(losses, weights)}, metrics


def _values(module: nn.Module, params: Any, hidden: Array) -> Array:
    return module.apply({"params": params}, hidden, method="value")
