"""Objectives of a low-rank change over a base that does not move."""

from typing import Any

import jax

from fmzoo.models.lora import join
from fmzoo.objectives.contract import Batch, Objective, ObjectiveFn


def adapted(objective: ObjectiveFn, *, base: str = "base", scale: float = 1.0) -> ObjectiveFn:
    """The same objective with adapters as its parameters, over the tree that ``frozen[base]`` holds.

    Args:
      objective: of the whole parameters.
      base: the name of the frozen tree.
      scale: ``alpha / r`` of the adapters.
    """
    terms = objective.terms if isinstance(objective, Objective) else objective

    def wrapped(params: Any, frozen: dict[str, Any], batch: Batch, rng: jax.Array, statistics: Any = None) -> Any:
        return terms(join(frozen[base], params, scale), frozen, batch, rng, statistics)

    if not isinstance(objective, Objective):
        return wrapped

    def prepare(params: Any, frozen: dict[str, Any], batch: Batch, rng: jax.Array) -> Any:
        return objective.prepare(join(frozen[base], params, scale), frozen, batch, rng)

    return Objective(wrapped, objective.prepare and prepare, objective.coupled)
