"""Kernels by name against the plain form; positions against their formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models
from fmzoo.errors import InputError
from fmzoo.models.attention import attend, attend_splash
from fmzoo.models.positions import alibi_slopes, rope_angles, rope_frequencies, rotate


@pytest.mark.parametrize(
    ("kv_heads", "window", "softcap", "packed"), [(2, None, None, True), (1, 40, None, False), (4, None, 5.0, False)]
)
@pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning")
def test_splash_equals_the_plain_form(kv_heads, window, softcap, packed):
    """By Pallas' interpreter; the kernel's online softmax sums in another order, hence 2e-5."""
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(2, 128, 4, 128)), jnp.float32)
    k, v = (jnp.asarray(rng.normal(size=(2, 128, kv_heads, 128)), jnp.float32) for _ in range(2))
    positions = jnp.arange(128)[None]
    segments = jnp.asarray(np.repeat([[1, 2], [1, 1]], 64, axis=1), jnp.int32) if packed else None
    mask = models.Mask(positions, positions, segments, segments, window, True)

    def plain(q, k, v):
        return attend(q, k, v, mask.dense(), scale=0.11, softcap=softcap)

    def splash(q, k, v):
        return attend_splash(q, k, v, mask, scale=0.11, softcap=softcap, interpret=True)

    def run(attention):
        def loss(*heads):
            y = attention(*heads)
            return jnp.sum(y**2), y

        grads, y = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        return y, grads

    (found, grads), (expected, expected_grads) = run(splash), run(plain)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for ours, theirs in zip(expected_grads, grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(np.abs(ours).max()))


def test_splash_refuses_a_length_that_it_cannot_tile():
    x = jnp.zeros((1, 100, 2, 128))
    mask = models.Mask(jnp.arange(100)[None], jnp.arange(100)[None])
    with pytest.raises(InputError, match="length 100"):
        attend_splash(x, x, x, mask, scale=1.0, interpret=True)


def test_the_decoder_runs_splash_by_name():
    config = models.DecoderConfig(
        vocab_size=16, d_model=128, num_layers=1, context_length=128, mlp=models.MlpConfig(d_ff=32),
        attention=models.AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=128),
    )  # fmt: skip
    x = jnp.asarray(np.random.default_rng(0).integers(0, 16, (1, 128)), jnp.int32)
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), x)
    splash = models.Decoder(models.replace(config, attention__implementation="splash"))
    np.testing.assert_allclose(jax.jit(splash.apply)(params, x), jax.jit(module.apply)(params, x), atol=2e-5)


def test_rope_keeps_distances(x64):
    """Scores depend on the difference of positions alone, and length is kept."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 16))) for _ in range(2))
    for interleaved in (False, True):

        def at(x, p, interleaved=interleaved):
            angles = rope_angles(models.RopeConfig(), 16, jnp.asarray([[p]]), jnp.float64)
            return np.asarray(rotate(x, angles, interleaved)[0, 0, 0])

        assert at(q, 7) @ at(k, 3) == pytest.approx(at(q, 1004) @ at(k, 1000), rel=1e-9)
        assert np.linalg.norm(at(q, 7)) == pytest.approx(np.linalg.norm(q), rel=1e-12)
        assert abs(at(q, 7) @ at(k, 3) - at(q, 7) @ at(k, 4)) > 1e-3


def test_scalings_stretch_what_their_papers_say():
    plain, _ = rope_frequencies(models.RopeConfig(), 64)
    linear, _ = rope_frequencies(models.RopeConfig(scaling="linear", factor=4), 64)
    np.testing.assert_allclose(linear, plain / 4)
    llama, _ = rope_frequencies(models.RopeConfig(scaling="llama3", factor=8, original_context=8192), 64)
    wavelength = 2 * np.pi / plain
    np.testing.assert_allclose(llama[wavelength < 2048], plain[wavelength < 2048])
    np.testing.assert_allclose(llama[wavelength > 8192], plain[wavelength > 8192] / 8)
    yarn, factor = rope_frequencies(models.RopeConfig(scaling="yarn", factor=16, original_context=4096), 64)
    assert factor == pytest.approx(0.1 * np.log(16) + 1)
    assert yarn[0] == plain[0]
    assert yarn[-1] == pytest.approx(plain[-1] / 16)


def test_alibi_slopes_are_those_of_the_paper():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    twelve = alibi_slopes(12)
    np.testing.assert_allclose(twelve[:8], alibi_slopes(8))
    np.testing.assert_allclose(twelve[8:], [2.0 ** -(i + 0.5) for i in range(4)])


@pytest.mark.parametrize("window", [None, 5, 90])
@pytest.mark.parametrize("length", [128, 131])
def test_queries_in_order_see_the_same_in_blocks(x64, length, window):
    rng = np.random.default_rng(length)
    q, k, v = (jnp.asarray(rng.normal(size=(2, length, heads, 8))) for heads in (4, 2, 2))
    bias = jnp.asarray(rng.normal(size=(2, 4, length, length)))
    distance = np.arange(length)[:, None] - np.arange(length)
    seen = jnp.asarray((distance >= 0) & (distance < (window or length)))[None] & (
        rng.random((2, length, length)) > 0.2
    )
    seen = seen | jnp.eye(length, dtype=bool)

    @functools.partial(jax.jit, static_argnums=0)
    def run(in_order, seen):
        def loss(*heads):
            y = attend(*heads, seen, scale=0.3, bias=bias, softcap=5.0, in_order=in_order, window=window)
            return jnp.sum(jnp.sin(y)), y

        grads, y = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return [y, *grads]

    for ours, plain in zip(run(True, seen), run(False, seen), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-12)
    later = run(False, seen.at[:, 3, 4].set(True))[0]
    assert np.abs(run(True, seen)[0] - later).max() > 1e-3


def test_transposed_inputs_give_the_same_gradients(x64):
    from fmzoo.models.projection import project_transposing

    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(2, 3, 5))), jnp.asarray(rng.normal(size=(5, 7)))
    found = jax.grad(lambda x, w: jnp.sum(jnp.sin(project_transposing(x, w))), (0, 1))(x, kernel)
    plain = jax.grad(lambda x, w: jnp.sum(jnp.sin(x @ w)), (0, 1))(x, kernel)
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
