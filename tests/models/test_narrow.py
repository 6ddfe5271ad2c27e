"""Kernels in fewer bits as decoding on a CPU holds them, for any number of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import generate, models
from fmzoo.models import narrow
from fmzoo.models.projection import as_array
from tests.train.probes import decoder, params_of

RNG = np.random.default_rng(0)


def held(kind, inputs, features, block=32):
    """A kernel as an array, and the node that decoding holds of it."""
    kernel = RNG.normal(size=(inputs, features)).astype(np.float32)
    if kind == "int8":
        node = jax.tree.map(jnp.asarray, models.quantize(kernel, "int8", block))
        return node.dequantize(), models.transpose_kernels({"kernel": node})["kernel"]
    array = jnp.asarray(kernel, kind)
    return array.astype(jnp.float32), models.transpose_kernels({"kernel": array})["kernel"]


def worst(found, x, kernel):
    """The error beside what rounding of a sum of so many numbers makes."""
    expected = x.astype(np.float64) @ np.asarray(kernel, np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(np.asarray(kernel, np.float64))
    return (np.abs(found - expected) / size).max()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("rows", [1, 3, 130])
def test_a_product_in_fewer_bits_rounds_nothing_but_its_sums(kind, rows, monkeypatch):
    """Also by tiles that do not divide the features."""
    monkeypatch.setattr(narrow, "TILE_BYTES", 7 * 4 * 96)
    for block in (32, None):
        kernel, node = held(kind, 96, 40, block)
        x = RNG.normal(size=(rows, 96)).astype(np.float32)
        np.testing.assert_array_equal(as_array(node), kernel)
        found = jax.jit(lambda x, node: models.project(x[None], node))(x, node)
        assert found.shape == (1, rows, 40)
        assert worst(found[0], x, kernel) < 3e-7


def test_a_bfloat16_input_meets_the_kernel_unrounded():
    kernel, node = held("int8", 64, 24)
    x = jnp.asarray(RNG.normal(size=(2, 64)), jnp.bfloat16)
    found = models.project(x, node, jnp.float32)
    assert found.dtype == jnp.float32
    assert worst(found, np.asarray(x, np.float32), kernel) < 3e-7


def test_decoding_joins_and_turns_kernels_in_8_bits():
    module = decoder(dropout=0.0, d_model=32, attention__head_dim=16, mlp__d_ff=32, context_length=24)
    params = models.quantize_params(params_of(module), "int8")
    ready = generate.for_decoding(params)
    layer = ready["period"]["0"][0]
    assert set(layer["attention"]) == {"query_key_value", "out"}
    assert set(layer["mlp"]) == {"gate_up", "down"}
    kernels = [layer["mlp"]["gate_up"]["kernel"], layer["attention"]["out"]["kernel"], ready["head"]]
    assert [(kernel.kernel.dtype, kernel.scales.dtype) for kernel in kernels] == [(jnp.int8, jnp.float32)] * 3
    tokens, run = jnp.asarray([[3, 1, 2]]), jax.jit(lambda params, x: module.apply({"params": params}, x))
    np.testing.assert_allclose(run(ready, tokens), run(models.dequantize_params(params), tokens), atol=1e-4)
    assert jax.tree.structure(models.dequantize_params(params)) == jax.tree.structure(params_of(module))
    mixed = models.unstack(params)
    attention = mixed["period"]["0"][0]["attention"]
    attention["key"] = {"kernel": attention["key"]["kernel"].dequantize()}
    assert "query" in models.join_projections(mixed)["period"]["0"][0]["attention"]


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_head_that_is_the_embedding_is_read_in_fewer_bits(kind):
    module = decoder(dropout=0.0, d_model=32, attention__head_dim=16, mlp__d_ff=32, context_length=24, tied_head=True)
    plain = params_of(module)
    if kind == "int8":
        params = models.quantize_params(plain, "int8")
        expected = dict(plain, embed=params["tied_head"].dequantize().T)
        assert set(models.dequantize_params(params)) == set(plain)
    else:
        params = jax.tree.map(lambda leaf: leaf.astype(kind), plain)
        expected = params
    ready = generate.for_decoding(params)
    assert ready["tied_head"].kernel.dtype == {"bfloat16": jnp.uint16, "int8": jnp.int8}[kind]
    hidden = jnp.asarray(RNG.normal(size=(2, 32)), jnp.float32)
    heads = [params, ready] if kind == "int8" else [ready]
    for head in heads:
        found = module.apply({"params": head}, hidden, method="unembed")
        assert worst(found, np.asarray(hidden), expected["embed"].T.astype(jnp.float32)) < 3e-7
    tokens = jnp.asarray([[3, 1, 2]])
    logits = module.apply({"params": ready}, tokens), module.apply({"params": plain}, tokens)
    np.testing.assert_allclose(*logits, atol=0.05 * np.abs(logits[1]).max())
