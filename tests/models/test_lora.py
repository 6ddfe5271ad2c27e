"""Adapters over a frozen base: what they compute, and that no merged copy of the base exists."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import models, objectives, train
from fmzoo.errors import InputError
from tests.train.probes import decoder, params_of, text_batch


def test_joined_equals_merged(x64):
    module = decoder(dropout=0.0)
    base = params_of(module)
    adapters = models.init_lora(jax.random.key(1), base, 3, "attention|mlp/down")
    run = jax.jit(lambda params: module.apply({"params": params}, text_batch()["inputs"]))
    start = run(models.join(base, adapters))
    np.testing.assert_allclose(start, run(base), atol=1e-12)
    adapters = jax.tree.map(lambda leaf: leaf + 0.05, adapters)
    joined = run(models.join(base, adapters, 0.5))
    np.testing.assert_allclose(joined, run(models.merge(base, adapters, 0.5)), atol=1e-12)
    listed = models.unstack(models.join(base, adapters, 0.5))
    np.testing.assert_allclose(joined, run(listed), atol=1e-12)
    assert np.abs(joined - start).max() > 1e-3


def test_joining_copies_nothing():
    base = params_of(decoder())
    joined = models.join(base, models.init_lora(jax.random.key(1), base, 2, "attention"))
    kernel = joined["period"]["0"]["attention"]["query"]["kernel"]
    assert kernel.kernel is base["period"]["0"]["attention"]["query"]["kernel"]
    assert joined["embed"] is base["embed"]


def test_a_step_over_a_frozen_base_holds_no_second_copy_of_it():
    """Arguments and temporaries of the compiled step are at most 1.25 times the base's bytes, over 100M parameters."""
    config = models.DecoderConfig(
        vocab_size=16_000, d_model=1024, num_layers=10, context_length=64, mlp=models.MlpConfig(d_ff=2816),
        attention=models.AttentionConfig(num_heads=16, num_kv_heads=8, head_dim=64), remat="full",
    )  # fmt: skip
    assert models.parameter_count(config) >= 100e6
    module = models.Decoder(config)
    base = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    adapters = jax.eval_shape(lambda: models.init_lora(jax.random.key(0), _zeros(base), 8, "attention|mlp"))
    optimizer = optax.adamw(1e-4)
    state = jax.eval_shape(lambda: train.init_state(_zeros(adapters), optimizer, jax.random.key(0)))
    batch = {name: jax.ShapeDtypeStruct((1, 32), jnp.int32) for name in ("inputs", "targets")}
    batch |= {
        "weights": jax.ShapeDtypeStruct((1, 32), jnp.float32),
        "example_id": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    objective = objectives.adapted(objectives.next_token(module))
    step = jax.jit(train.update(train.gradients(objective), optimizer), donate_argnums=0)
    memory = step.lower(state, {"base": base}, batch).compile().memory_analysis()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(base))
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes <= 1.25 * size


def test_targets_that_match_nothing_are_refused():
    base = params_of(decoder())
    with pytest.raises(InputError, match="lora targets 'atention' match no kernel"):
        models.init_lora(jax.random.key(0), base, 2, "atention")
    with pytest.raises(InputError, match="lora rank is 0"):
        models.init_lora(jax.random.key(0), base, 0)


def _zeros(tree):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)
