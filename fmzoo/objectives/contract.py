"""What an objective is: sums with their weights, and randomness that belongs to an example.

An objective is any function ``(params, frozen, batch, rng, statistics=None) -> (terms, metrics)``, both
``{name: Mean}``. The loss is ``sum over terms of coefficient * total / weight`` after totals and weights have been
summed over microbatches, devices and hosts, so one batch and any split of it give the same gradient.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Batch = dict[str, Array]


class Mean(NamedTuple):
    """A mean that is not divided yet; weights must not depend on the parameters."""

    total: Array  # shape=(), float
    weight: Array  # shape=(), float


Terms = dict[str, Mean]


class ObjectiveFn(Protocol):
    """The call of an objective."""

    def __call__(
        self, params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: dict[str, Array] | None = None
    ) -> tuple[Terms, Terms]:
        """Gives ``(terms, metrics)``: sums over this batch, rows of weight 0 not counted."""


class Objective(NamedTuple):
    """An objective that needs something of the whole batch, such as KTO's reference point, which is prepared first.

    Attributes:
      terms: the objective; it is given ``statistics``.
      prepare: ``(params, frozen, batch, rng) -> {name: Mean}``: summed over everything, divided, and passed to
        ``terms`` without gradient.
      coupled: the loss of a row depends on the other rows as no statistic can say, such as by in-batch contrast:
        no parts of a batch have sums that give the whole, so splitting it is refused.
    """

    terms: ObjectiveFn
    prepare: Callable[[Any, dict[str, Any], Batch, Array], Terms] | None = None
    coupled: bool = False

    def __call__(self, params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None) -> Any:
        """Calls ``terms``."""
        return self.terms(params, frozen, batch, rng, statistics)


def weighted_mean(values: Array, weights: Array) -> Mean:
    """``Mean(sum(values * weights), sum(weights))``, weights broadcast; weight 0 silences even NaN and infinity."""
    weights = jnp.broadcast_to(weights, values.shape).astype(values.dtype)
    return Mean(jnp.sum(jnp.where(weights != 0, values, 0) * weights), jnp.sum(weights))


def divide(mean: Mean) -> Array:
    """``total / weight``, and 0 where the weight is 0."""
    some = mean.weight != 0
    return jnp.where(some, mean.total / jnp.where(some, mean.weight, 1), 0)


def example_keys(rng: Array, purpose: str, example_id: Array) -> Array:
    """A key for each example that does not depend on which microbatch or device holds it.

    Args:
      rng: the step's key.
      purpose: what is drawn, such as ``"dropout"``; digested by SHA-256, so that it is the same in every process.
      example_id: ``int32[B]``.

    Returns:
      Typed keys ``[B]``.
    """
    digest = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "little")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(rng, digest), example_id)
