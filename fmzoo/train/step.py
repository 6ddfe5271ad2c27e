"""Steps and what refines them: each is a function ``(state, frozen, batch) -> (state, metrics)``.

Every step reports ``updated``, 1 if it moved the parameters. A refinement that finds it 0 leaves its own part alone, so
the order in which refinements are stacked does not matter.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Batch, divide
from fmzoo.train.gradients import GradientFn
from fmzoo.train.state import State

Array = jax.Array
Metrics = dict[str, Array]
Step = Callable[[Any, dict[str, Any], Batch], tuple[Any, Metrics]]


def update(gradients: GradientFn, optimizer: optax.GradientTransformation) -> Step:
    """A step that follows the gradient once.

    A batch of weight 0 moves nothing but ``step``: parameters, the optimizer's moments and its count stay.

    Returns:
      A step whose metrics are ``loss``, each term and metric of the objective divided by its weight, ``grad_norm``,
      ``weight`` (summed over terms) and ``updated``.
    """

    def step(state: State, frozen: dict[str, Any], batch: Batch) -> tuple[State, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        found = gradients(state.params, frozen, batch, rng)
        updates, opt_state = optimizer.update(found.grads, state.opt_state, state.params)
        moved = state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
        weight = sum(term.weight for term in found.terms.values())
        metrics = {name: divide(mean) for name, mean in {**found.terms, **found.metrics}.items()}
        metrics |= {"loss": found.loss, "grad_norm": optax.tree.norm(found.grads), "weight": weight}
        return choose(weight > 0, moved, state).replace(step=state.step + 1), metrics | {"updated": weight > 0}

    return step


def choose(condition: Array, new: Any, old: Any) -> Any:
    """``new`` where the scalar condition holds, else ``old``, leaf by leaf."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), new, old)


def skip_nonfinite(step: Step) -> Step:
    """Leaves everything but the count of steps as it was when the loss or the gradient is not finite.

    Adds the metric ``skipped``, 1 for such a step.
    """

    def guarded(state: State, frozen: dict[str, Any], batch: Batch) -> tuple[State, Metrics]:
        new, metrics = step(state, frozen, batch)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        kept = choose(finite, new, state.replace(step=new.step))
        return kept, metrics | {"skipped": ~finite, "updated": metrics["updated"] & finite}

    return guarded


def moving_average(step: Step, decay: float) -> Step:
    """Keeps ``ema <- decay * ema + (1 - decay) * params`` after each update (Polyak & Juditsky 1992).

    Raises:
      InputError: the state was made without ``ema=True``, or decay is not in ``[0, 1)``.
    """
    if not 0 <= decay < 1:
        raise InputError(f"ema decay is {decay}; at least 0 and below 1 is needed")

    def averaged(state: State, frozen: dict[str, Any], batch: Batch) -> tuple[State, Metrics]:
        if state.ema is None:
            raise InputError("ema is None in the state; a state made with ema=True is needed")
        new, metrics = step(state, frozen, batch)
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, new.params)
        return new.replace(ema=choose(metrics["updated"], ema, state.ema)), metrics

    return averaged


def carried(step: Step, advance: Callable[[Any, Metrics], Any]) -> Step:
    """Moves ``state.carry`` by ``advance(carry, metrics)`` after each update: what is learnt without a gradient."""

    def carrying(state: State, frozen: dict[str, Any], batch: Batch) -> tuple[State, Metrics]:
        new, metrics = step(state, frozen, batch)
        return new.replace(carry=choose(metrics["updated"], advance(state.carry, metrics), state.carry)), metrics

    return carrying


def on(name: str, step: Step) -> Step:
    """A step on one of several states ``{name: State}``; it sees the parameters of the others through ``frozen``.

    Its metrics are ``name/metric``.
    """

    def one(states: dict[str, State], frozen: dict[str, Any], batch: Batch) -> tuple[dict[str, State], Metrics]:
        others = {other: state.params for other, state in states.items() if other != name}
        new, metrics = step(states[name], {**others, **frozen}, batch)
        return {**states, name: new}, {f"{name}/{key}": value for key, value in metrics.items()}

    return one


def in_turn(*steps: Step) -> Step:
    """Steps one after another on the same batch, each on the state that the one before left; metrics are merged."""

    def run(state: Any, frozen: dict[str, Any], batch: Batch) -> tuple[Any, Metrics]:
        merged: Metrics = {}
        for step in steps:
            state, metrics = step(state, frozen, batch)
            merged |= metrics
        return state, merged

    return run
