"""Steps compose: what moves, what stays, what is donated, in every order of refinements."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import parallel, train
from fmzoo.errors import InputError
from fmzoo.objectives import weighted_mean
from tests.train.probes import PROBES

ROWS, WIDTH = 8, 3


def objective(params, frozen, batch, rng, statistics=None):
    """A linear regression, against a frozen offset if there is one."""
    del rng, statistics
    error = (batch["x"] @ params["w"] + params["b"] - batch["y"] - frozen.get("offset", 0.0)) ** 2
    return {"loss": weighted_mean(error, batch["weights"])}, {"error": weighted_mean(error, batch["weights"])}


def regression(seed=0):
    k = jax.random.split(jax.random.key(seed), 2)
    x = jax.random.normal(k[0], (ROWS, WIDTH))
    return {
        "x": x,
        "y": x @ jnp.asarray([1.0, -2.0, 0.5]) + 0.1,
        "weights": jnp.linspace(0.5, 2, ROWS),
        "example_id": jnp.arange(ROWS, dtype=jnp.int32),
    }


def params_of(seed=0):
    return {"w": jax.random.normal(jax.random.key(seed), (WIDTH,)), "b": jnp.ones(())}


def state_of(optimizer, seed=0, **options):
    return train.init_state(params_of(seed), optimizer, jax.random.key(seed), **options)


def same(a, b):
    """Whether two trees are equal bit for bit, keys included."""
    raw = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(raw(x)), np.asarray(raw(y)), equal_nan=True) for x, y in pairs)


REFINEMENTS = {
    "skip": train.skip_nonfinite,
    "average": lambda step: train.moving_average(step, 0.9),
    "carry": lambda step: train.carried(step, lambda carry, metrics: carry + metrics["loss"]),
}


ADAM = optax.adamw(0.1)


@functools.cache
def refined(order):
    step = train.update(train.gradients(objective), ADAM)
    for name in order:
        step = REFINEMENTS[name](step)
    return jax.jit(step)


def moved_once():
    """A state with moments, an average and a carry that are not what they started as."""
    state = state_of(ADAM, ema=True, carry=jnp.zeros(()))
    return refined(tuple(REFINEMENTS))(state, {}, regression())[0]


ORDERS = list(itertools.permutations(REFINEMENTS))
ORDER_NAMES = [" ".join(order) for order in ORDERS]


@pytest.mark.parametrize("order", ORDERS, ids=ORDER_NAMES)
def test_weight_zero_changes_nothing_but_the_count_of_steps(order):
    before = moved_once()
    batch = regression() | {"weights": jnp.zeros(ROWS)}
    after, metrics = refined(order)(before, {}, batch)
    assert after.step == before.step + 1
    assert same(after.replace(step=before.step), before)
    assert not metrics["updated"]
    assert metrics["loss"] == metrics["weight"] == 0


@pytest.mark.parametrize("order", ORDERS, ids=ORDER_NAMES)
def test_an_update_that_is_not_finite_changes_nothing_but_the_count_of_steps(order):
    before = moved_once()
    batch = regression()
    batch["x"] = batch["x"].at[2].set(jnp.inf)
    after, metrics = refined(order)(before, {}, batch)
    assert after.step == before.step + 1
    assert same(after.replace(step=before.step), before)
    assert metrics["skipped"]
    assert not metrics["updated"]


def test_orders_of_refinements_agree_where_all_goes_well():
    before = moved_once()
    results = [refined(order)(before, {}, regression(1))[0] for order in ORDERS]
    assert not same(results[0].params, before.params)
    for result in results[1:]:
        chex.assert_trees_all_close(result.replace(rng=None), results[0].replace(rng=None), rtol=1e-6)


def test_a_gradient_of_zero_would_have_moved_adam():
    """What weight 0 guards against: momentum goes on without a gradient."""
    before = moved_once()
    updates, after = ADAM.update(jax.tree.map(jnp.zeros_like, before.params), before.opt_state, before.params)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(updates))
    assert not same(after, before.opt_state)


def test_metrics_are_means_of_the_whole_batch():
    state, batch = state_of(optax.sgd(0.1)), regression()
    _, metrics = jax.jit(train.update(train.gradients(objective, microbatches=4), optax.sgd(0.1)))(state, {}, batch)
    error = (batch["x"] @ state.params["w"] + state.params["b"] - batch["y"]) ** 2
    expected = np.average(error, weights=batch["weights"])
    assert metrics["error"] == pytest.approx(expected, rel=1e-6)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["weight"] == pytest.approx(float(batch["weights"].sum()))
    gradient = jax.grad(lambda p: objective(p, {}, batch, None)[0]["loss"].total / batch["weights"].sum())(state.params)
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-6)


def test_the_moving_average_is_polyaks():
    step = jax.jit(train.moving_average(train.update(train.gradients(objective), optax.sgd(0.1)), 0.75))
    state = state_of(optax.sgd(0.1), ema=True)
    expected = state.params
    for seed in range(3):
        state, _ = step(state, {}, regression(seed))
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, state.params)
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-6)
    assert same(train.average_params(state), state.ema)
    assert same(train.average_params(state.replace(ema=None)), state.params)


def test_a_moving_average_needs_its_place_and_a_decay_below_one():
    step = train.update(train.gradients(objective), optax.sgd(0.1))
    with pytest.raises(InputError, match=r"ema decay is 1\.0; at least 0 and below 1 is needed"):
        train.moving_average(step, 1.0)
    with pytest.raises(InputError, match="ema is None in the state"):
        train.moving_average(step, 0.9)(state_of(optax.sgd(0.1)), {}, regression())


def test_each_step_draws_anew_and_the_key_stays():
    draws = []

    def noisy(params, frozen, batch, rng, statistics=None):
        draws.append(rng)
        return objective(params, frozen, batch, rng)

    step, state = train.update(train.gradients(noisy), optax.sgd(0.1)), state_of(optax.sgd(0.1))
    first, _ = step(state, {}, regression())
    second, _ = step(first, {}, regression())
    assert same(second.rng, state.rng)
    assert same(draws[0], jax.random.fold_in(state.rng, 0))
    assert not same(draws[0], draws[-1])


def test_a_step_on_one_of_two_states_sees_the_other_and_moves_its_own():
    def against(params, frozen, batch, rng, statistics=None):
        offset = jax.lax.stop_gradient(frozen["value"]["b"]) + frozen["offset"]
        return objective(params, {"offset": offset}, batch, rng)

    optimizer = optax.sgd(0.1)
    plain = train.update(train.gradients(objective), optimizer)
    policy = train.on("policy", train.update(train.gradients(against), optimizer))
    states = {"policy": state_of(optimizer, 1), "value": state_of(optimizer, 2)}
    frozen, batch = {"offset": jnp.asarray(0.5)}, regression()
    new, metrics = jax.jit(policy)(states, frozen, batch)
    assert same(new["value"], states["value"])
    alone, _ = jax.jit(plain)(states["policy"], {"offset": states["value"].params["b"] + 0.5}, batch)
    chex.assert_trees_all_close(new["policy"].params, alone.params, rtol=1e-6)
    assert set(metrics) == {f"policy/{name}" for name in ("error", "loss", "grad_norm", "weight", "updated")}


def test_steps_in_turn_each_start_from_what_the_last_one_left():
    optimizer = optax.sgd(0.1)
    follow = train.update(
        train.gradients(lambda p, f, *rest: objective(p, {"offset": f["value"]["b"]}, *rest)), optimizer
    )
    plain = train.update(train.gradients(objective), optimizer)
    both = jax.jit(train.in_turn(train.on("value", plain), train.on("policy", follow)))
    states = {"policy": state_of(optimizer, 1), "value": state_of(optimizer, 2)}
    new, metrics = both(states, {}, regression())
    value, _ = jax.jit(plain)(states["value"], {}, regression())
    policy, _ = jax.jit(follow)(states["policy"], {"value": value.params}, regression())
    chex.assert_trees_all_close(new["value"].params, value.params, rtol=1e-6)
    chex.assert_trees_all_close(new["policy"].params, policy.params, rtol=1e-6)
    assert {"policy/loss", "value/loss"} <= set(metrics)


WAYS = {
    "jit": lambda step: jax.jit(step, donate_argnums=0),
    "compile": lambda step: parallel.compile(step, parallel.mesh("data=2", jax.devices()[:2])),
    "shard": lambda step: parallel.shard(step, jax.devices()[:2]),
    "pmap": lambda step: parallel.pmap(step, jax.devices()[:2]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_donated_step_takes_nothing_that_the_caller_or_frozen_holds(way):
    """The reference is the very tree that the policy starts from, and the optimizer remembers it too."""

    def near_reference(params, frozen, batch, rng, statistics=None):
        return objective(params, {"offset": frozen["reference"]["b"]}, batch, rng)

    params, batch, optimizer = params_of(), regression(), optax.contrib.prodigy()
    frozen = {"reference": params}
    state = train.init_state(params, optimizer, jax.random.key(0), ema=True)
    step = WAYS[way](train.moving_average(train.update(train.gradients(near_reference), optimizer), 0.9))
    for _ in range(2):
        before = state
        state, metrics = step(state, frozen, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state, before.ema)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, frozen, batch)))
    assert np.isfinite(metrics["loss"])


def test_parameters_given_away_are_not_copied():
    params = params_of()
    state = train.init_state(params, optax.sgd(0.1), jax.random.key(0), copy=False)
    assert state.params["w"] is params["w"]
    assert train.init_state(params, optax.sgd(0.1), jax.random.key(0)).params["w"] is not params["w"]


def test_seeds_run_together_as_they_run_alone(x64):
    """One batch and one frozen tree for all, a state for each; only the order of sums may differ."""
    probe = PROBES["denoiser"]()
    optimizer = optax.adamw(1e-2)
    step = train.skip_nonfinite(train.update(train.gradients(probe.objective, microbatches=2), optimizer))

    def start(seed):
        params = jax.tree.map(lambda leaf: leaf * (1 + 0.1 * seed), probe.params)
        return train.init_state(params, optimizer, jax.random.key(seed), copy=False)

    seeds = jnp.arange(3)
    together, alone = jax.vmap(start)(seeds), [start(seed) for seed in seeds]
    many, one = jax.jit(jax.vmap(step, in_axes=(0, None, None))), jax.jit(step)
    for _ in range(3):
        together, metrics = many(together, probe.frozen, probe.batch)
        alone = [one(state, probe.frozen, probe.batch)[0] for state in alone]
    assert metrics["loss"].shape == (3,)
    assert len(set(np.asarray(metrics["loss"]).tolist())) == 3
    for i, state in enumerate(alone):
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], together.params), state.params, rtol=1e-9)
