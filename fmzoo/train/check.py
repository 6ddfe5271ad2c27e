"""A test of an objective: does it keep what the contract of `fmzoo.objectives.contract` promises?"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Batch, Mean, ObjectiveFn
from fmzoo.train.gradients import gradients, prepare
from fmzoo.train.promises import CHECKS, Trial, Untried, check_both, check_gradient

Array = jax.Array
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check_objective` found; true if nothing failed, and printed as a list.

    Attributes:
      failures: a sentence for each promise that is broken.
      passed: the names of the promises that are kept.
      untried: a sentence for each that this batch or machine could not test.
    """

    failures: tuple[str, ...]
    passed: tuple[str, ...]
    untried: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        rows = [("FAILED", self.failures), ("kept", self.passed), ("not tried", self.untried)]
        return "\n".join(f"{mark}: {sentence}" for mark, sentences in rows for sentence in sentences)


def check_objective(
    objective: ObjectiveFn,
    params: Any,
    frozen: dict[str, Any],
    batch: Batch,
    *,
    rng: Array | None = None,
    coefficients: dict[str, float] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Tests a loss of your own: any split of a batch gives one gradient, and weight 0 counts for nothing.

    Gradients are compared leaf by leaf, ``|found - expected| <= tolerance * |expected|`` in L2 (plus rounding of the
    whole gradient, for leaves whose gradient is 0), losses and metrics likewise. Parameters in float64, under
    ``jax.enable_x64(True)``, make the test sharpest.

    Args:
      objective: ``(params, frozen, batch, rng, statistics=None) -> (terms, metrics)``, or an `Objective`.
      params: parameters at which the gradient is not 0.
      frozen: what else it reads.
      batch: ``{field: [B, ...]}`` with ``example_id``. Fields called ``weights`` or ``..._weights`` say what counts;
        let them differ from row to row, or a mean of means cannot be told from a mean.
      rng: a typed key; a fixed one by default.
      coefficients: of the terms, as in `gradients`.
      tolerance: by default what the parameters' coarsest dtype allows: 1e-9 in float64, 1e-4 in float32.

    Returns:
      A report, true if all is well: ``assert (report := check_objective(...)), report``.

    Raises:
      InputError: the batch lacks ``example_id``, has fields of different lengths or under two rows that count, or the
        objective returns something other than two dicts of `Mean`.
    """
    batch = _checked(batch)
    rng = jax.random.key(0) if rng is None else rng
    _check_returned(objective, params, frozen, batch, rng)
    tolerance = _tolerance(params) if tolerance is None else tolerance
    run = jax.jit(gradients(objective, coefficients))
    whole = run(params, frozen, batch, rng)
    trial = Trial(objective, params, frozen, batch, rng, coefficients, tolerance, run, whole)
    useless = check_gradient(trial)
    if useless is not None:
        return Report((f"gradient: {useless}",), ())
    return _report(trial)


def _report(trial: Trial) -> Report:
    found: dict[str, dict[str, str]] = {"failed": {}, "kept": {}, "untried": {}}
    for name in ("microbatches", "devices") if _outcome(check_both, trial)[0] == "kept" else ():
        found["kept"][name] = ""
    for name, check in CHECKS.items():
        if name not in found["kept"]:
            outcome, sentence = _outcome(check, trial)
            found[outcome][name] = sentence
    failures, untried = ([f"{name}: {s}" for name, s in found[kind].items()] for kind in ("failed", "untried"))
    return Report(tuple(failures), tuple(found["kept"]), tuple(untried))


def _outcome(check: Callable[[Trial], str | None], trial: Trial) -> tuple[str, str]:
    """``failed``, ``kept`` or ``untried``, and a sentence."""
    try:
        failure = check(trial)
    except Untried as reason:
        return "untried", str(reason)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        return (
            "failed",
            f"the objective takes the whole batch and stops at a part of it, {type(error).__name__}: {reason}",
        )
    return ("kept", "") if failure is None else ("failed", failure)


def _checked(batch: Batch) -> Batch:
    if "example_id" not in batch:
        raise InputError(f"batch has no example_id, only {sorted(batch)[:8]}; int32[B] that numbers the rows is needed")
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    rows = batch["example_id"].shape[0] if batch["example_id"].ndim == 1 else 0
    if rows < 2:
        raise InputError(f"example_id has shape {batch['example_id'].shape}; [B] with at least 2 rows is needed")
    for name, value in batch.items():
        if value.shape[:1] != (rows,):
            raise InputError(f"batch field {name} has shape {value.shape}; {rows} rows as in example_id are needed")
    return batch


def _check_returned(objective: ObjectiveFn, params: Any, frozen: dict[str, Any], batch: Batch, rng: Array) -> None:
    def returned(batch: Batch) -> Any:
        return objective(params, frozen, batch, rng, prepare(objective, params, frozen, batch, rng, lambda f, b: f(b)))

    shapes = jax.eval_shape(returned, batch)
    pair = shapes if isinstance(shapes, tuple) and len(shapes) == 2 else (None, None)
    for part in pair:
        means = part.values() if isinstance(part, dict) else [None]
        if not all(isinstance(mean, Mean) and mean.total.shape == mean.weight.shape == () for mean in means):
            raise InputError(
                f"objective returns {str(jax.tree.map(lambda leaf: leaf.shape, shapes))[:120]}; (terms, metrics), both "
                "{name: Mean(total, weight)} of scalars, is needed"
            )


def _tolerance(params: Any) -> float:
    return max(TOLERANCE.get(str(leaf.dtype), 1e-4) for leaf in jax.tree.leaves(params))
