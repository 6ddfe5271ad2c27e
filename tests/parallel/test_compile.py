"""Three ways to run a step: each traces once, gives its memory on, and leaves frozen trees where they are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import models, parallel, train
from fmzoo.errors import InputError
from fmzoo.objectives import next_token
from tests.train.probes import decoder, params_of, text_batch

OPTIMIZER = optax.adamw(1e-2)


def mesh():
    return parallel.mesh("data=2,fsdp=2,tensor=2")


WAYS = {
    "compile": lambda step, **options: parallel.compile(step, parallel.mesh("data=4,fsdp=2"), **options),
    "shard": parallel.shard,
    "pmap": parallel.pmap,
}


def linear(state, frozen, batch):
    """Descent on a regression, summed over whatever runs it."""

    def loss(w):
        return jnp.sum((batch["x"] @ w - batch["x"] @ frozen["truth"]) ** 2)

    value, grad = parallel.total(jax.value_and_grad(loss)(state["w"]))
    return {"w": state["w"] - 0.01 * grad, "step": state["step"] + 1}, {"loss": value}


def start():
    return {"w": jnp.zeros(4), "step": jnp.zeros((), jnp.int32)}


def batch_of(seed):
    return {"x": np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)}


@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_traced_once_and_its_state_donated(way):
    chex.clear_trace_counter()
    run = WAYS[way](chex.assert_max_traces(linear, n=1))
    state, frozen = start(), {"truth": jnp.arange(4.0)}
    losses = []
    for seed in range(4):
        before, (state, metrics) = state, run(state, frozen, batch_of(seed))
        losses.append(float(metrics["loss"]))
        assert seed == 0 or before["w"].is_deleted()
    assert not frozen["truth"].is_deleted()
    expected, plain = start(), []
    for seed in range(4):
        expected, metrics = linear(expected, frozen, batch_of(seed))
        plain.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    np.testing.assert_allclose(state["w"], expected["w"], rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_state_is_kept_if_asked(way):
    run = WAYS[way](linear, donate=False)
    state, _ = run(start(), {"truth": jnp.arange(4.0)}, batch_of(0))
    run(state, {"truth": jnp.arange(4.0)}, batch_of(1))
    assert not state["w"].is_deleted()


@pytest.mark.parametrize("way", WAYS)
def test_frozen_trees_may_sit_on_one_device_and_are_moved_once(way, monkeypatch):
    run, frozen = WAYS[way](linear), {"truth": jax.device_put(jnp.arange(4.0), jax.devices()[3])}
    state, _ = run(start(), frozen, batch_of(0))
    moved = []
    true = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda *a, **k: moved.append(1) or true(*a, **k))
    for seed in (1, 2):
        state, _ = run(state, frozen, batch_of(seed))
    assert not moved
    other, _ = run(state, {"truth": jnp.full(4, 7.0)}, batch_of(3))
    assert moved
    assert np.all(np.isfinite(other["w"]))


def test_a_compiled_step_keeps_every_part_where_the_rules_put_it():
    module = decoder(attention__num_kv_heads=2, dropout=0.0, num_layers=1)
    state = train.init_state(params_of(module), OPTIMIZER, jax.random.key(0), ema=True)
    chex.clear_trace_counter()
    step = train.moving_average(train.update(train.gradients(next_token(module), microbatches=2), OPTIMIZER), 0.9)
    run = parallel.compile(chex.assert_max_traces(step, n=1), mesh(), models.DECODER_RULES)
    for seed in (1, 2):
        state, _ = run(state, {}, text_batch(seed))
    expected = parallel.state_shardings(state, mesh(), models.DECODER_RULES)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    kernel = state.params["period"]["0"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_a_step_is_lowered_from_shapes_alone_and_needs_its_share():
    """Arguments of a device are an eighth of what one device would need, nothing allocated."""
    module = decoder(d_model=64, mlp__d_ff=256, num_layers=1, attention__num_kv_heads=2, dropout=0.0)

    def make():
        return train.init_state(params_of(module), OPTIMIZER, jax.random.key(0), copy=False)

    state = jax.eval_shape(make)
    shardings = parallel.state_shardings(state, parallel.mesh("fsdp=4,tensor=2"), models.DECODER_RULES)
    abstract = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), state, shardings)
    step = train.update(train.gradients(next_token(module)), OPTIMIZER)
    run = parallel.compile(step, parallel.mesh("fsdp=4,tensor=2"), models.DECODER_RULES)
    batch = jax.eval_shape(text_batch)
    needed = run.lower(abstract, {}, batch).compile().memory_analysis().argument_size_in_bytes
    numbers = jax.eval_shape(lambda s: (s.params, s.opt_state), state)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((numbers, batch)))
    assert whole / 8 < needed < whole / 4


def test_pmap_refuses_to_run_a_part_of_several_processes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="pmap runs in one process and there are 2; compile or shard is needed"):
        parallel.pmap(linear)


def test_a_total_outside_of_devices_is_the_tree_itself():
    tree = {"a": jnp.ones(2)}
    assert parallel.total(tree) is tree
