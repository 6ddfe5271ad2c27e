"""What an objective promises, each promise a test: ``(trial) -> a sentence that says how it is broken, or None``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Batch, Mean, ObjectiveFn, divide
from fmzoo.parallel import path_of, shard
from fmzoo.train.gradients import Gradients, accumulate, gradients, prepare

Array = jax.Array
ROUNDING = 32  # units in the last place of the whole gradient that a leaf may be off, for leaves that are all rounding
CAUSES = "return sums and weights rather than means, and key every draw with example_keys"
MASK = "give each term the weights of what it counts, as weighted_mean does"
CLEAN = "clean a field by jnp.where(weights != 0, field, 0) before it is used, as 0 * NaN is NaN in a gradient"


class Untried(Exception):  # noqa: N818 -- not an error
    """Why a promise cannot be tested here."""


class Trial(NamedTuple):
    """An objective with a batch, and what one pass over the whole batch gives."""

    objective: ObjectiveFn
    params: Any
    frozen: dict[str, Any]
    batch: Batch
    rng: Array
    coefficients: dict[str, float] | None
    tolerance: float
    run: Callable[..., Gradients]
    whole: Gradients

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return self.batch["example_id"].shape[0]

    def difference(self, batch: Batch, expected: Gradients | None = None) -> str | None:
        """What another batch gives that it should not; None if it agrees."""
        found = self.run(self.params, self.frozen, batch, self.rng)
        return difference(found, self.whole if expected is None else expected, self.tolerance)


def check_gradient(trial: Trial) -> str | None:
    """The batch itself gives a gradient that is a number, and not 0."""
    norms = [_norm(leaf) for leaf in jax.tree.leaves(trial.whole.grads)]
    if not np.all(np.isfinite([*norms, float(trial.whole.loss)])):
        return "loss or gradient is not finite, so that nothing can be compared; other parameters or data are needed"
    if not any(norms):
        return "the gradient is 0 everywhere, so that nothing can be compared; other parameters or data are needed"
    return None


def check_microbatches(trial: Trial) -> str | None:
    """A part for each row, summed, is the batch."""
    compute = gradients(trial.objective, trial.coefficients, microbatches=trial.rows)
    found = jax.jit(compute)(trial.params, trial.frozen, trial.batch, trial.rng)
    apart = difference(found, trial.whole, trial.tolerance)
    return apart and f"split into {trial.rows} parts {apart}; {CAUSES}"


def check_devices(trial: Trial) -> str | None:
    """The rows spread over devices give what one device gives."""
    return _spread(trial, microbatches=1)


def check_both(trial: Trial) -> str | None:
    """Microbatches and devices at once, in one compilation; only what fails needs to be taken apart."""
    return _spread(trial, microbatches=trial.rows // _devices(trial))


def _devices(trial: Trial) -> int:
    local = len(jax.local_devices())
    return max(n for n in range(1, min(local, trial.rows) + 1) if trial.rows % n == 0)


def _spread(trial: Trial, microbatches: int) -> str | None:
    local, devices = jax.local_devices(), _devices(trial)
    if devices == 1:
        raise Untried(f"{len(local)} local devices cannot share {trial.rows} rows evenly")
    compute = gradients(trial.objective, trial.coefficients, microbatches=microbatches)

    def step(state: Any, frozen: dict[str, Any], batch: Batch) -> tuple[Gradients, dict]:
        return compute(state["params"], frozen, batch, state["rng"]), {}

    state = {"params": trial.params, "rng": trial.rng}
    found, _ = shard(step, local[:devices], donate=False)(state, trial.frozen, trial.batch)
    apart = difference(found, trial.whole, trial.tolerance)
    return apart and f"on {devices} devices {apart}; {CAUSES}"


def check_order(trial: Trial) -> str | None:
    """Rows in another order are the same batch, and draw the same noise."""
    order = np.concatenate([np.arange(1, trial.rows, 2), np.arange(0, trial.rows, 2)])  # no two neighbours stay
    apart = trial.difference({name: value[order] for name, value in trial.batch.items()})
    return apart and f"with rows in another order {apart}; key draws with example_keys, not by a row's place"


def check_weightless_rows(trial: Trial) -> str | None:
    """Rows of weight 0 are as if they were not there, whatever they hold: also NaN."""
    silent, without = _some_silent(trial)
    spoilt = {name: _spoil(name, value, silent) for name, value in trial.batch.items()}
    apart = trial.difference(_silence(trial.batch, silent), without)
    if apart:
        return f"with rows of weight 0 in place of none {apart}; {MASK}"
    apart = trial.difference(_silence(spoilt, silent), without)
    return apart and f"with rows of weight 0 that hold NaN in place of none {apart}; {CLEAN}"


def check_padding(trial: Trial) -> str | None:
    """Rows of zeros that fill a batch up change nothing."""
    silent, without = _some_silent(trial)
    padded = {
        name: jnp.where(_column(silent, value), jnp.zeros_like(value), value) for name, value in trial.batch.items()
    }
    apart = trial.difference(_silence(padded, silent), without)
    return apart and f"with rows of zeros and weight 0 in place of none {apart}; {MASK}"


def check_nothing_counts(trial: Trial) -> str | None:
    """A batch of which nothing counts has weight, loss and gradient 0."""
    everything = np.ones(trial.rows, bool)
    _weight_fields(trial.batch)
    found = trial.run(trial.params, trial.frozen, _silence(trial.batch, everything), trial.rng)
    for name, term in found.terms.items():
        if term.weight != 0:
            return f"where every weight is 0, term {name} still has weight {float(term.weight):.6g}; {MASK}"
    if any(_norm(leaf) != 0 for leaf in jax.tree.leaves(found.grads)):
        return f"where every weight is 0, the gradient is not 0; {MASK}"
    return None


def check_weights(trial: Trial) -> str | None:
    """Weights stay when every parameter is NaN."""
    broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan) if _is_float(p) else p, trial.params)
    statistics = prepare(trial.objective, trial.params, trial.frozen, trial.batch, trial.rng, lambda f, batch: f(batch))

    @jax.jit
    def weights(params: Any) -> dict[str, Array]:
        terms, _ = trial.objective(params, trial.frozen, trial.batch, trial.rng, statistics)
        return {name: term.weight for name, term in terms.items()}

    found, expected = weights(broken), weights(trial.params)
    for name, weight in expected.items():
        if found[name] != weight:
            return f"the weight of term {name} depends on the parameters; a weight is made from the batch alone"
    return None


def check_statistics(trial: Trial) -> str | None:
    """What the objective prepares from the batch is the sum of what it prepares from each row."""
    made = getattr(trial.objective, "prepare", None)
    if made is None:
        raise Untried("the objective prepares none")

    def means(parts: int) -> dict[str, Mean]:
        return accumulate(parts)(lambda b: made(trial.params, trial.frozen, b, trial.rng), trial.batch)

    whole, split = jax.jit(means, static_argnums=0)(1), jax.jit(means, static_argnums=0)(trial.rows)
    for name, mean in whole.items():
        for part, a, b in zip(Mean._fields, mean, split[name], strict=True):
            apart = _norm(_wide(a) - _wide(b))
            if not apart <= trial.tolerance * max(_norm(a), 1):
                found = f"{_norm(a):.6g} for the batch, is off by {apart:.6g} summed over its rows"
                return f"the {part} of statistic {name}, {found}; return Mean(total, weight) of sums"
    return None


CHECKS = {
    "microbatches": check_microbatches,
    "devices": check_devices,
    "order of rows": check_order,
    "rows of weight 0": check_weightless_rows,
    "padding": check_padding,
    "nothing counts": check_nothing_counts,
    "weights": check_weights,
    "statistics": check_statistics,
}


def _some_silent(trial: Trial) -> tuple[np.ndarray, Gradients]:
    """Every other row that counts as a mask ``bool[B]``, and what the batch gives without those rows."""
    fields = _weight_fields(trial.batch)
    counts = np.any([np.any(np.asarray(trial.batch[f]).reshape(trial.rows, -1) != 0, axis=1) for f in fields], axis=0)
    silent = np.zeros(trial.rows, bool)
    silent[np.flatnonzero(counts)[1::2]] = True
    if not silent.any():
        raise InputError(f"batch has weight on {int(counts.sum())} rows; at least 2 are needed")
    kept = {name: value[~silent] for name, value in trial.batch.items()}
    return silent, trial.run(trial.params, trial.frozen, kept, trial.rng)


def _weight_fields(batch: Batch) -> list[str]:
    fields = [name for name in batch if _is_weight(name)]
    if not fields:
        raise Untried("the batch has no field called weights or ..._weights")
    return fields


def _is_weight(name: str) -> bool:
    return name == "weights" or name.endswith("_weights")


def _silence(batch: Batch, rows: np.ndarray) -> Batch:
    return {n: jnp.where(_column(rows, v), jnp.zeros_like(v), v) if _is_weight(n) else v for n, v in batch.items()}


def _spoil(name: str, value: Array, rows: np.ndarray) -> Array:
    """NaN in place of numbers, other rows' tokens in place of tokens; ids and weights stay."""
    if name == "example_id" or _is_weight(name):
        return value
    return jnp.where(_column(rows, value), jnp.nan if _is_float(value) else jnp.roll(value, 1, axis=0), value)


def _column(rows: np.ndarray, value: Array) -> np.ndarray:
    return rows.reshape(-1, *(1,) * (value.ndim - 1))


def difference(found: Gradients, expected: Gradients, tolerance: float) -> str | None:
    """Says which leaf of the gradient, or else which value, differs most; None if all agree to the tolerance."""
    whole = np.sqrt(sum(_norm(leaf) ** 2 for leaf in jax.tree.leaves(expected.grads)))
    worst, where = 1.0, ""
    pairs = zip(jax.tree.leaves_with_path(expected.grads), jax.tree.leaves(found.grads), strict=True)
    for (path, leaf), other in pairs:
        allowed = tolerance * _norm(leaf) + ROUNDING * float(jnp.finfo(leaf.dtype).eps) * whole
        times = np.nan_to_num(_norm(_wide(other) - _wide(leaf)) / allowed, nan=np.inf, posinf=np.inf)
        if times > worst:
            worst, where = times, path_of(path)
    if where:
        return f"the gradient of {where} is off by {worst:.0f} times the tolerance {tolerance:.0e}"
    others = _values(found)
    for name, value in _values(expected).items():
        if not abs(others[name] - value) <= tolerance * max(abs(value), 1):
            return f"{name} is {others[name]:.6g} and should be {value:.6g}"
    return None


def _values(found: Gradients) -> dict[str, float]:
    named = {f"term {name}": mean for name, mean in found.terms.items()}
    named |= {f"metric {name}": mean for name, mean in found.metrics.items()}
    return {"loss": float(found.loss)} | {name: float(divide(mean)) for name, mean in named.items()}


def _is_float(value: Array) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _wide(value: Array) -> np.ndarray:
    return np.asarray(value).astype(np.float64)


def _norm(value: Any) -> float:
    return float(np.linalg.norm(_wide(value)))
