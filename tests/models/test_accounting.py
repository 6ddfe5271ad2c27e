"""What a config says of its size is what `init` makes and what the compiler counts."""

import jax
import jax.numpy as jnp
import pytest

from fmzoo import models
from tests.models.test_decoder import OPTIONS, TINY


@pytest.mark.parametrize("name", OPTIONS)
def test_parameters_are_counted_exactly(name):
    config = models.replace(TINY, **OPTIONS[name], dtype="float32")
    shapes = jax.eval_shape(models.Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert models.parameter_count(config) == sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_operations_are_those_of_the_compiled_products(kv_heads):
    """XLA counts the full square of scores, so the formula is held against it with the causal half put back."""
    changes = {"attention__num_kv_heads": kv_heads, "layers": "unrolled", "d_model": 96, "mlp__d_ff": 512}
    config = models.replace(TINY, **changes, dtype="float32")
    length, module = 32, models.Decoder(config)
    x = jnp.zeros((1, length), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = jax.jit(module.apply).lower(params, x).compile().cost_analysis()["flops"]
    a = config.attention
    square = 4 * a.num_heads * a.head_dim * (length - (length + 1) / 2) * config.num_layers
    stated = length * (models.flops_per_token(config, length, training=False) + square)
    assert stated == pytest.approx(counted, rel=0.05)  # norms, softmax and activations are the rest
    assert stated < counted


def test_a_window_costs_less():
    wide = models.replace(TINY, pattern=("local",), attention__window=1000)
    narrow = models.replace(TINY, pattern=("local",), attention__window=4)
    assert models.flops_per_token(wide, 100) == models.flops_per_token(TINY, 100)
    saved = models.flops_per_token(wide, 100) - models.flops_per_token(narrow, 100)
    seen = sum(min(t + 1, 4) for t in range(100)) / 100
    assert saved == pytest.approx(3 * 3 * 4 * 4 * 6 * (50.5 - seen))


@pytest.mark.parametrize("name", ["plain", "windows", "local rope, prefix and tail"])
def test_cache_bytes_are_those_of_the_cache(name):
    config = models.replace(TINY, **OPTIONS[name], dtype="bfloat16")
    cache = models.init_cache(config, 3, 20)
    assert models.cache_bytes(config, 3, 20) == sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
