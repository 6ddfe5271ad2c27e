"""A second objective on fields of its own in the same batch, such as pretraining text beside completions."""

from typing import Any

import jax

from fmzoo.objectives.contract import Batch, Objective, ObjectiveFn, Terms

Array = jax.Array


def beside(objective: ObjectiveFn, other: ObjectiveFn, *, name: str = "pretraining") -> ObjectiveFn:
    """The terms of both: those of the second are called ``{name}_...`` and read the fields ``{name}_...``.

    InstructGPT's PPO-ptx (arXiv 2203.02155, eq. 2) is a policy gradient beside `next_token` on pretraining text, with
    27.8 as coefficient of ``pretraining_loss``. Draws of the second are keyed by ``{name}_example_id`` if that is
    there, else by ``example_id``.

    Args:
      objective: the first.
      other: the second, which has the same parameters and frozen trees.
      name: of the second.
    """
    prefix, parts = f"{name}_", (objective, other)
    terms_of = [part.terms if isinstance(part, Objective) else part for part in parts]
    prepares = [part.prepare if isinstance(part, Objective) else None for part in parts]
    coupled = any(part.coupled for part in parts if isinstance(part, Objective))

    def terms(params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None) -> Any:
        found = terms_of[0](params, frozen, batch, rng, statistics)
        second = terms_of[1](params, frozen, fields_of(batch, prefix), rng, fields_of(statistics or {}, prefix))
        return tuple(mine | prefixed(theirs, prefix) for mine, theirs in zip(found, second, strict=True))

    def prepare(params: Any, frozen: dict[str, Any], batch: Batch, rng: Array) -> Terms:
        first = prepares[0](params, frozen, batch, rng) if prepares[0] else {}
        second = prepares[1](params, frozen, fields_of(batch, prefix), rng) if prepares[1] else {}
        return first | prefixed(second, prefix)

    return Objective(terms, prepare if any(prepares) else None, coupled) if any(prepares) or coupled else terms


def fields_of(batch: Batch, prefix: str) -> Batch:
    """The fields whose names begin so, without it, and the rows' numbers."""
    found = {key.removeprefix(prefix): value for key, value in batch.items() if key.startswith(prefix)}
    return {key: batch[key] for key in ("example_id",) if key in batch} | found


def prefixed(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The same under longer names."""
    return {prefix + name: value for name, value in values.items()}
