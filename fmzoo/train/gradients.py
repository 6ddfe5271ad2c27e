"""Gradients of sums that are divided once: exact under microbatches, devices and hosts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmzoo.errors import InputError, nearest
from fmzoo.objectives.contract import Batch, Mean, Objective, ObjectiveFn, Terms, divide
from fmzoo.parallel import check_rows, constrain_rows, sharing, total

Array = jax.Array
Summation = Callable[[Callable[[Batch], Any], Batch], Any]  # (f, batch) -> the sum of f over the batch's parts


class Gradients(NamedTuple):
    """What one pass over a batch gives.

    Attributes:
      grads: of the loss, a tree like the parameters.
      loss: ``sum over terms of coefficient * total / weight``, shape=().
      terms: the objective's terms, summed over everything.
      metrics: the objective's metrics, summed over everything.
    """

    grads: Any
    loss: Array
    terms: Terms
    metrics: Terms


GradientFn = Callable[[Any, dict[str, Any], Batch, Array], Gradients]


def accumulate(microbatches: int) -> Summation:
    """Sums a function over microbatches one after another, so that only one is in memory.

    Microbatch m takes rows m, m + k, m + 2k, ...: each device keeps the rows that it has.
    """

    def summed(f: Callable[[Batch], Any], batch: Batch) -> Any:
        if microbatches == 1:
            return f(batch)
        parts = {name: _split(value, microbatches) for name, value in batch.items()}
        first = jax.tree.map(lambda leaf: leaf[0], parts)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, first))

        def add(sums: Any, part: Batch) -> tuple[Any, None]:
            part = jax.tree.map(constrain_rows, part)
            return jax.tree.map(jnp.add, sums, f(part)), None

        return jax.lax.scan(add, zero, parts)[0]

    return summed


def _split(value: Array, microbatches: int) -> Array:
    check_rows(value.shape[0], microbatches, "microbatches")
    return jnp.swapaxes(value.reshape(-1, microbatches, *value.shape[1:]), 0, 1)


def gradients(
    objective: ObjectiveFn, coefficients: Mapping[str, float] | None = None, *, microbatches: int = 1
) -> GradientFn:
    """The gradient of an objective over a whole batch, however it is split.

    Three sums over the batch, each over microbatches and then devices: the statistics that the objective prepares, the
    weights (the compiler drops the forward pass, which they do not depend on), and the gradient of the loss already
    divided by those weights.

    Args:
      objective: see `fmzoo.objectives.contract`.
      coefficients: of the terms; a term not named has 1.
      microbatches: how many parts the rows are split into.

    Returns:
      ``(params, frozen, batch, rng) -> Gradients``.

    Raises:
      InputError: the objective is coupled and the batch would be split, here into microbatches or, when it is called,
        over the devices of `shard` or `pmap`.
    """
    _check_whole(objective, microbatches, "microbatches")
    parts = accumulate(microbatches)

    def summed(f: Callable[[Batch], Any], batch: Batch) -> Any:
        return total(parts(f, batch))

    def compute(params: Any, frozen: dict[str, Any], batch: Batch, rng: Array) -> Gradients:
        _check_whole(objective, sharing(), "devices of shard or pmap")
        statistics = prepare(objective, params, frozen, batch, rng, summed)
        weights = summed(lambda b: _weights(objective(params, frozen, b, rng, statistics)[0]), batch)

        def part(b: Batch) -> Any:
            def loss(params: Any) -> tuple[Array, tuple[Terms, Terms]]:
                terms, metrics = objective(params, frozen, b, rng, statistics)
                whole = {name: Mean(term.total, weights[name]) for name, term in terms.items()}
                return combine(whole, coefficients), (terms, metrics)

            (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return grads, value, *aux

        return Gradients(*summed(part, batch))

    return compute


def prepare(
    objective: ObjectiveFn, params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, summed: Summation
) -> dict[str, Array] | None:
    """The objective's statistics of the whole batch, divided and without gradient; None if it prepares nothing."""
    if not isinstance(objective, Objective) or objective.prepare is None:
        return None
    means = summed(lambda b: objective.prepare(params, frozen, b, rng), batch)
    return {name: jax.lax.stop_gradient(divide(mean)) for name, mean in means.items()}


def _check_whole(objective: ObjectiveFn, parts: int, what: str) -> None:
    if parts > 1 and isinstance(objective, Objective) and objective.coupled:
        raise InputError(f"batch is split over {parts} {what}, and the objective couples its rows; 1 is needed")


def combine(terms: Terms, coefficients: Mapping[str, float] | None = None) -> Array:
    """``sum over terms of coefficient * total / weight``; a term of weight 0 adds 0.

    Raises:
      InputError: a coefficient names no term.
    """
    coefficients = coefficients or {}
    for name in coefficients:
        if name not in terms:
            raise InputError(f"coefficient {name!r} names no term of the objective; {nearest(name, terms)}")
    return sum(coefficients.get(name, 1.0) * divide(term) for name, term in terms.items())


def _weights(terms: Terms) -> dict[str, Array]:
    return {name: term.weight for name, term in terms.items()}
