"""Cross entropy against its definition, and in chunks against whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import objectives
from fmzoo.objectives import chunked_cross_entropy, cross_entropy, divide, example_keys, weighted_mean
from tests.train.probes import decoder, params_of, text_batch


def test_cross_entropy_is_its_definition(x64):
    rng = np.random.default_rng(0)
    logits, targets = jnp.asarray(rng.normal(size=(3, 4, 7)) * 3), jnp.asarray(rng.integers(0, 7, (3, 4)))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    picked = np.take_along_axis(np.log(p), np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(logits, targets), -picked, rtol=1e-12)
    smooth = -0.8 * picked - 0.2 * np.log(p).mean(-1)
    z = np.log(np.exp(logits).sum(-1))
    shaped = cross_entropy(logits, targets, z_loss=0.3, label_smoothing=0.2)
    np.testing.assert_allclose(shaped, smooth + 0.3 * z**2, rtol=1e-12)


@functools.cache
def in_chunks(chunk):
    """A loss and its gradient."""
    module = decoder(logit_softcap=4.0, num_layers=1)
    params, batch, key = params_of(module), text_batch(), jax.random.key(0)
    objective = objectives.next_token(module, z_loss=0.1, label_smoothing=0.1, chunk=chunk)
    return jax.jit(jax.value_and_grad(lambda p: divide(objective(p, {}, batch, key)[0]["loss"])))(params)


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_chunks_change_neither_value_nor_gradient(chunk, x64):
    (value, grads), (chunked, chunked_grads) = in_chunks(None), in_chunks(chunk)
    assert float(value) == pytest.approx(float(chunked), rel=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), grads, chunked_grads)


def test_chunks_never_hold_all_logits():
    hidden, table = jnp.zeros((2, 64, 8)), jnp.zeros((8, 5000))
    targets = jnp.zeros((2, 64), jnp.int32)

    def peak(loss):
        memory = jax.jit(jax.grad(loss)).lower(hidden).compile().memory_analysis()
        return memory.temp_size_in_bytes

    whole = peak(lambda h: jnp.sum(cross_entropy(h @ table, targets)))
    chunked = peak(lambda h: jnp.sum(chunked_cross_entropy(lambda x: x @ table, h, targets, chunk=4)))
    assert chunked < whole / 4
    assert chunked < 2 * 64 * 5000 * 4


def test_the_plain_loss_is_reported_beside_a_shaped_one(x64):
    module = decoder(dropout=0.0)
    params, batch, key = params_of(module), text_batch(), jax.random.key(0)
    plain = objectives.next_token(module)(params, {}, batch, key)
    shaped = objectives.next_token(module, z_loss=0.1)(params, {}, batch, key)
    np.testing.assert_allclose(divide(shaped[1]["nats"]), divide(plain[0]["loss"]), rtol=1e-12)
    assert divide(shaped[0]["loss"]) > divide(plain[0]["loss"])


def test_weight_zero_silences_even_infinity():
    def total(x):
        return weighted_mean(x, jnp.asarray([1.0, 0.0])).total

    assert total(jnp.asarray([2.0, jnp.inf])) == 2
    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray([2.0, jnp.nan])), [1.0, 0.0])
    assert divide(objectives.Mean(jnp.asarray(3.0), jnp.asarray(0.0))) == 0


def test_a_key_belongs_to_step_purpose_and_example():
    ids = jnp.arange(4)
    draw = lambda rng, purpose, ids: jax.vmap(jax.random.uniform)(example_keys(rng, purpose, ids))  # noqa: E731
    base = draw(jax.random.key(0), "noise", ids)
    np.testing.assert_array_equal(draw(jax.random.key(0), "noise", ids[::-1]), base[::-1])
    assert len({*base.tolist(), *draw(jax.random.key(0), "level", ids).tolist()}) == 8
    assert len({*base.tolist(), *draw(jax.random.key(1), "noise", ids).tolist()}) == 8
    # The first four bytes of SHA-256 of "noise", little-endian: the same in every process and version.
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 3232097007), 2)
    assert base[2] == jax.random.uniform(expected)
