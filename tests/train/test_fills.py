"""Fills add fields in order, on the device or on the host, and a step sees them all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmzoo import train
from fmzoo.objectives import example_keys, weighted_mean


def noise(state, frozen, batch):
    keys = example_keys(jax.random.fold_in(state.rng, state.step), "noise", batch["example_id"])
    return {"noise": jax.vmap(jax.random.normal)(keys)}


def scaled(state, frozen, batch):
    return {"scaled": batch["noise"] * frozen["scale"]}


def verified(state, frozen, batch):
    assert all(isinstance(value, np.ndarray) for value in batch.values())
    return {"weights": np.asarray([float(value > 0) for value in batch["scaled"]], np.float32)}


def objective(params, frozen, batch, rng, statistics=None):
    return {"loss": weighted_mean((params["w"] - batch["scaled"]) ** 2, batch["weights"])}, {}


def test_fills_feed_a_step_and_device_fills_are_traced_once():
    traces = []

    def counted(state, frozen, batch):
        traces.append(len(batch))
        return noise(state, frozen, batch)

    fills = train.Fill(counted) >> train.Fill(scaled) >> train.Fill(verified, on_host=True)
    optimizer = optax.sgd(0.1)
    step = train.fill_then(fills.jit(), jax.jit(train.update(train.gradients(objective), optimizer), donate_argnums=0))
    state = train.init_state({"w": jnp.zeros(())}, optimizer, jax.random.key(0))
    frozen, batch = {"scale": jnp.asarray(3.0)}, {"example_id": jnp.arange(6)}
    by_hand = fills(state, frozen, batch)
    chosen = np.asarray(by_hand["scaled"])[np.asarray(by_hand["weights"]) > 0]
    assert 0 < len(chosen) < 6
    traces.clear()
    state, metrics = step(state, frozen, batch)
    np.testing.assert_allclose(metrics["loss"], np.mean(chosen**2), rtol=1e-6)
    np.testing.assert_allclose(state.params["w"], 0.2 * np.mean(chosen), rtol=1e-6)
    before = np.asarray(metrics["loss"])
    _, metrics = step(state, frozen, batch)
    assert traces == [1]
    assert abs(metrics["loss"] - before) > 1e-3  # the step's number is in the key: other noise
