"""Optimizers: the rate at the steps that matter, what decays, Muon on stacked layers, and that each goes downhill."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import models, train
from fmzoo.errors import InputError
from fmzoo.train import OptimizerConfig, learning_rate, make_optimizer
from fmzoo.train.optimizers import decayed, matrices

STEPS, WARMUP, PEAK = 100, 10, 0.5


def rates(schedule, *steps, **changes):
    config = OptimizerConfig(schedule=schedule, learning_rate=PEAK, warmup_steps=WARMUP, **changes)
    return [float(learning_rate(config, STEPS)(step)) for step in steps]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_the_rate_rises_over_the_warm_up_and_its_first_step_moves(schedule):
    found = rates(schedule, *range(WARMUP))
    np.testing.assert_allclose(found, PEAK * np.arange(1, WARMUP + 1) / WARMUP, rtol=1e-6)


def test_cosine_falls_by_half_a_wave():
    middle = WARMUP + (STEPS - WARMUP) // 2
    found = rates("cosine", WARMUP, middle, STEPS, STEPS + 50, final_fraction=0.1)
    np.testing.assert_allclose(found, [PEAK, PEAK * 0.55, PEAK * 0.1, PEAK * 0.1], rtol=1e-6)


def test_linear_falls_in_a_straight_line():
    middle = WARMUP + (STEPS - WARMUP) // 2
    found = rates("linear", WARMUP, middle, STEPS, final_fraction=0.2)
    np.testing.assert_allclose(found, [PEAK, PEAK * 0.6, PEAK * 0.2], rtol=1e-6)


def test_wsd_holds_the_peak_and_falls_over_the_last_part():
    found = rates("wsd", WARMUP, 50, 80, 90, 100, decay_fraction=0.2, final_fraction=0.0)
    np.testing.assert_allclose(found, [PEAK, PEAK, PEAK, PEAK / 2, 0.0], rtol=1e-6, atol=1e-9)


def test_wsd_ends_at_the_final_rate_when_the_warm_up_leaves_less_than_its_fall():
    found = rates("wsd", WARMUP, STEPS, decay_fraction=1.0, final_fraction=0.1)
    np.testing.assert_allclose(found, [PEAK, PEAK * 0.1], rtol=1e-6)


def test_constant_holds_and_a_short_run_warms_up_for_half_of_it():
    assert rates("constant", WARMUP, STEPS) == [PEAK, PEAK]
    config = OptimizerConfig(schedule="constant", learning_rate=PEAK, warmup_steps=100)
    found = [float(learning_rate(config, 4)(step)) for step in range(4)]
    np.testing.assert_allclose(found, [PEAK / 2, PEAK, PEAK, PEAK], rtol=1e-6)
    assert float(learning_rate(config, 1)(0)) == PEAK


def decoder_params(**changes):
    config = models.DecoderConfig(
        vocab_size=16, d_model=8, num_layers=2, context_length=8, mlp=models.MlpConfig(d_ff=12, bias=True),
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4, qkv_bias=True),
        norm=models.NormConfig(kind="layer", bias=True), **changes,
    )  # fmt: skip
    module = models.Decoder(config)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])


def test_decay_leaves_norms_and_biases_alone():
    params = decoder_params(head_bias=True)
    flags = {tuple(k.key for k in path): flag for path, flag in jax.tree.leaves_with_path(decayed(params))}
    assert {path[-1] for path, flag in flags.items() if flag} == {"embed", "head", "kernel"}
    assert {path[-1] for path, flag in flags.items() if not flag} == {"scale", "bias", "head_bias"}


def test_decay_shrinks_what_has_no_gradient():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "norm": {"scale": jnp.ones(2)}}
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, schedule="constant", warmup_steps=0)
    for name in ("adamw", "muon"):
        optimizer = make_optimizer(dataclasses.replace(config, name=name), 10)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6, err_msg=name)
        assert not np.any(updates["bias"]), name
        assert not np.any(updates["norm"]["scale"]), name


def test_muon_takes_kernels_and_leaves_tables_norms_and_biases_to_adam():
    views = matrices(decoder_params(position="learned"))
    is_view = lambda v: v is None or isinstance(v, optax.contrib.MuonDimensionNumbers)  # noqa: E731
    taken = {}
    for path, view in jax.tree.leaves_with_path(views, is_leaf=is_view):
        taken.setdefault(path[-1].key, set()).add(view is not None)
    expected = {"kernel": {True}, "embed": {False}, "position_embed": {False}, "head": {False}}
    assert taken == expected | {"scale": {False}, "bias": {False}}
    assert matrices({"label_embed": jnp.ones((3, 2))}) == {"label_embed": None}


def test_muon_on_stacked_layers_is_muon_on_each_layer():
    config = OptimizerConfig(name="muon", learning_rate=0.1, schedule="constant", warmup_steps=0, clip_norm=None)
    optimizer = make_optimizer(config, 10)
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = {"kernel": jax.random.normal(keys[0], (3, 6, 4)), "bias": jnp.zeros((3, 4))}
    grads = {"kernel": jax.random.normal(keys[1], (3, 6, 4)), "bias": jnp.ones((3, 4))}
    together, _ = optimizer.update(grads, optimizer.init(stacked), stacked)
    for i in range(3):
        layer, grad = (jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (stacked, grads))
        alone, _ = optimizer.update(grad, optimizer.init(layer), layer)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-5, atol=1e-7)


def test_muons_update_is_orthogonal_and_as_large_as_adams():
    """Its singular values are near one another, and its root mean square is 0.2 of the rate (2502.16982, 2.2)."""
    config = OptimizerConfig(name="muon", learning_rate=1.0, schedule="constant", warmup_steps=0, weight_decay=0.0)
    optimizer = make_optimizer(dataclasses.replace(config, clip_norm=None), 10)
    params = {"kernel": jnp.zeros((32, 16))}
    grads = {"kernel": jax.random.normal(jax.random.key(0), (32, 16)) * jnp.logspace(0, 1, 16)}
    update = optimizer.update(grads, optimizer.init(params), params)[0]["kernel"]
    values = np.linalg.svd(np.asarray(update), compute_uv=False)
    assert values.max() / values.min() < 2 < np.linalg.cond(np.asarray(grads["kernel"]))
    assert float(jnp.sqrt(jnp.mean(update**2))) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_each_optimizer_goes_downhill(name):
    """A two-layer regression: the loss falls to under a tenth."""
    keys = jax.random.split(jax.random.key(1), 4)
    x = jax.random.normal(keys[0], (64, 8))
    y = jnp.tanh(x @ jax.random.normal(keys[1], (8, 4)))
    params = {
        "in": {"kernel": jax.random.normal(keys[2], (8, 16)) / 3, "bias": jnp.zeros(16)},
        "out": {"kernel": jax.random.normal(keys[3], (16, 4)) / 4, "bias": jnp.zeros(4)},
    }
    config = OptimizerConfig(name=name, learning_rate=0.05, warmup_steps=10, weight_decay=1e-4)

    def loss(p):
        hidden = jnp.tanh(x @ p["in"]["kernel"] + p["in"]["bias"])
        return jnp.mean((hidden @ p["out"]["kernel"] + p["out"]["bias"] - y) ** 2)

    optimizer = make_optimizer(config, 150)

    @jax.jit
    def run(params):
        def step(carry, _):
            params, opt_state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=150)[1]

    losses = run(params)
    assert losses[-1] < losses[0] / 10


def test_the_whole_gradient_is_clipped():
    config = OptimizerConfig(learning_rate=1.0, clip_norm=1.0, schedule="constant", warmup_steps=0)
    clipped = make_optimizer(config, 10)
    free = make_optimizer(dataclasses.replace(config, clip_norm=None), 10)
    params = {"a": {"kernel": jnp.zeros((2, 2))}, "b": {"kernel": jnp.zeros((2, 2))}}
    grads = jax.tree.map(lambda leaf: leaf + 100.0, params)
    _, state = clipped.update(grads, clipped.init(params), params)
    _, expected = free.update(jax.tree.map(lambda g: g / optax.tree.norm(grads), grads), free.init(params), params)
    chex.assert_trees_all_close(state[1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "sgd"}, "optimizer name is 'sgd'; one of adamw, adafactor, muon is needed"),
        ({"schedule": "step"}, "optimizer schedule is 'step'; one of"),
        ({"learning_rate": 0.0}, r"optimizer learning_rate is 0\.0; a number above 0 is needed"),
        ({"clip_norm": -1.0}, r"optimizer clip_norm is -1\.0"),
        ({"b2": 1.5}, r"optimizer b2 is 1\.5; a number from 0 to 1 is needed"),
        ({"final_fraction": -0.1}, "optimizer final_fraction"),
        ({"warmup_steps": -1}, "optimizer warmup_steps is -1; at least 0 is needed"),
    ],
)
def test_a_value_out_of_range_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        OptimizerConfig(**change)


def test_the_rate_of_muons_adam_part_is_its_own():
    config = OptimizerConfig(
        name="muon", learning_rate=0.1, adam_learning_rate=0.01, schedule="constant", warmup_steps=0, weight_decay=0.0
    )
    optimizer = train.make_optimizer(config, 10)
    params = {"bias": jnp.zeros(3), "kernel": jnp.zeros((3, 3))}
    grads = {"bias": jnp.ones(3), "kernel": jnp.eye(3)}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["bias"], -0.01, rtol=1e-3)
