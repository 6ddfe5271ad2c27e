"""Kernels in 8 and 4 bits: how far off they are, and that every way of running a model takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import generate, models, parallel
from fmzoo.errors import InputError
from fmzoo.models import quantize
from tests.train.probes import decoder, params_of, text_batch

KINDS = {"int8": ("int8", 32), "int8 by output": ("int8", None), "int4": ("int4", 32)}


def kernel(*shape, spread=1.0):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) * np.exp(spread * rng.standard_normal((*shape[:-2], 1, shape[-1])))).astype("f4")


def steps(weights, kind, block):
    """The step of the grid at every number: by the definition, not by the code."""
    blocks = weights.reshape(*weights.shape[:-2], -1, block, weights.shape[-1])
    if kind == "int8":
        found = np.abs(blocks).max(-2, keepdims=True) / 127
    else:
        found = (blocks.max(-2, keepdims=True) - blocks.min(-2, keepdims=True)) / 15
    return np.broadcast_to(found, blocks.shape).reshape(weights.shape)


@pytest.mark.parametrize(("kind", "block"), [("int8", 32), ("int8", 64), ("int4", 32)])
def test_no_number_is_off_by_more_than_half_a_step(kind, block):
    weights = kernel(3, 64, 48)
    step = steps(weights, kind, block)
    rounding = np.abs(weights).max() * 2**-10 if kind == "int4" else np.abs(weights).max() * 2**-11
    found = np.asarray(quantize(weights, kind, None if block == 64 else block).dequantize())
    off = np.abs(found - weights)
    if kind == "int8":
        assert (off <= step / 2 + rounding).all()
    else:  # of the two grids the one with less error in all is taken, which may be off more somewhere
        root = lambda x: np.sqrt((x.reshape(3, 2, 32, 48) ** 2).sum(2))  # noqa: E731
        assert (root(off) <= root(step / 2 + rounding)).all()
    assert off.max() > step.max() / 4
    root = np.sqrt(np.mean((off / step) ** 2))  # of an error spread evenly over a step
    assert root < 12**-0.5


def test_a_constant_and_a_zero_kernel_stay():
    for value in (0.0, 0.5, -2.0):
        for kind in ("int8", "int4"):
            weights = np.full((32, 2), value, np.float32)
            np.testing.assert_allclose(quantize(weights, kind).dequantize(), weights, rtol=2**-10)


def test_numpy_and_jax_give_the_same():
    weights = kernel(2, 64, 8)
    for kind in ("int8", "int4"):
        here, there = quantize(weights, kind), quantize(jnp.asarray(weights), kind)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(here))
        for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a.astype("f4"), b.astype("f4"), atol=1, rtol=1e-2)  # a tie may fall either way


def test_four_bits_take_five_with_their_scales():
    weights = kernel(256, 64)
    bits = {kind: sum(8 * leaf.nbytes for leaf in jax.tree.leaves(quantize(weights, kind))) / weights.size
            for kind in ("int8", "int4")}  # fmt: skip
    assert bits == {"int8": 8.5, "int4": 5.0}


@pytest.mark.parametrize("name", KINDS)
def test_a_node_multiplies_like_the_kernel_that_it_stands_for(name):
    node = jax.tree.map(jnp.asarray, quantize(kernel(64, 24), *KINDS[name]))
    x = jax.random.normal(jax.random.key(0), (2, 3, 64))
    expected = x @ node.dequantize()
    assert (node.shape, node.dtype) == ((64, 24), jnp.float32)
    np.testing.assert_allclose(models.project(x, node), expected, atol=1e-4)
    np.testing.assert_allclose(jax.jit(models.project)(x, node), expected, atol=1e-4)
    low = models.project(x.astype(jnp.bfloat16), node)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.03 * np.abs(expected).max())


def test_every_way_of_running_a_decoder_takes_them():
    """Stacked and listed layers, scan and unrolled, LoRA over it, and split over devices; attention in 4 bits."""
    module = decoder(dropout=0.0, d_model=32, attention__head_dim=16, mlp__d_ff=32)
    base, tokens = params_of(module), text_batch()["inputs"]
    fewer = models.quantize_params(base, "int8")
    layer = fewer["period"]["0"]
    layer["attention"] = models.quantize_params(base["period"]["0"]["attention"], "int4")
    assert isinstance(layer["attention"]["query"]["kernel"], models.BlockKernel)
    assert isinstance(fewer["head"], models.Int8Kernel)
    assert fewer["embed"] is base["embed"]
    plain = models.dequantize_params(fewer)
    run = jax.jit(lambda params: module.apply({"params": params}, tokens))
    np.testing.assert_allclose(run(fewer), expected := run(plain), atol=1e-4)
    unrolled = models.Decoder(models.replace(module.config, layers="unrolled"))
    listed = jax.jit(lambda params: unrolled.apply({"params": params}, tokens))(models.unstack(fewer))
    np.testing.assert_allclose(listed, expected, atol=1e-4)
    adapters = models.init_lora(jax.random.key(1), fewer, 2, "attention|mlp")
    adapters = jax.tree.map(lambda leaf: leaf + 0.05, adapters)
    joined, merged = models.join(fewer, adapters, 0.5), models.merge(plain, adapters, 0.5)
    np.testing.assert_allclose(run(joined), expected := run(merged), atol=1e-3)
    mesh = parallel.mesh("fsdp=2,tensor=2,data=-1")
    placed = parallel.place(joined, mesh, models.DECODER_RULES)
    assert placed["head"].values.sharding.shard_shape((32, 32)) == (16, 16)
    np.testing.assert_allclose(run(placed), expected, atol=1e-3)


def test_decoding_draws_what_the_arrays_draw():
    module = decoder(dropout=0.0, d_model=32, attention__head_dim=16, mlp__d_ff=32, context_length=24)
    fewer = models.quantize_params(params_of(module), "int8")
    answers = [
        generate.text(
            models.Pretrained(module, params, module.config), [[1, 2, 3]], jax.random.key(0), max_new_tokens=8
        )
        for params in (fewer, models.dequantize_params(fewer))
    ]
    assert answers[0][0].tokens == answers[1][0].tokens


def test_the_gradient_reaches_through_and_stops_at_the_node():
    node = jax.tree.map(jnp.asarray, quantize(kernel(64, 8), "int4"))
    x = jax.random.normal(jax.random.key(0), (3, 64))
    found = jax.grad(lambda x: jnp.sum(models.project(x, node) ** 2))(x)
    expected = jax.grad(lambda x: jnp.sum((x @ node.dequantize()) ** 2))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="kind is 'int2'; int8 or int4 is needed"):
        quantize(kernel(4, 4), "int2")
    with pytest.raises(InputError, match=r"shape \(4,\) is no matrix"):
        quantize(np.ones(4, np.float32), "int8")
    with pytest.raises(InputError, match="3 inputs has blocks of 1; an even number is needed"):
        quantize(kernel(3, 4), "int4")
