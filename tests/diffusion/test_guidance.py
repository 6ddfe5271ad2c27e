"""Guidance by both papers' scales, the rescale, the interval, the thresholds."""

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion import (
    Process,
    dynamic_threshold,
    estimate,
    guide,
    interval_scale,
    scale_of_ho_and_salimans,
    static_threshold,
)

COND, UNCOND = np.random.default_rng(1).standard_normal((2, 3, 4, 5, 2)).astype(np.float32)


def test_the_two_scales_name_one_guidance():
    theirs = (1 + 2.5) * COND - 2.5 * UNCOND
    np.testing.assert_allclose(guide(COND, UNCOND, scale_of_ho_and_salimans(2.5)), theirs, atol=1e-5)
    np.testing.assert_allclose(guide(COND, UNCOND, 1.0), COND, atol=1e-6)
    np.testing.assert_allclose(guide(COND, UNCOND, 0.0), UNCOND)


def test_guidance_is_wide_and_by_row():
    guided = guide(COND.astype(jnp.bfloat16), UNCOND.astype(jnp.bfloat16), jnp.array([1.0, 3.0, 7.5]))
    assert guided.dtype == jnp.float32
    np.testing.assert_allclose(guided[1], guide(COND, UNCOND, 3.0)[1], atol=0.1)


def test_rescaled_guidance_has_the_conditional_deviation():
    guided, plain = guide(COND, UNCOND, 7.5, rescale=1.0), guide(COND, UNCOND, 7.5)
    axes = (1, 2, 3)
    np.testing.assert_allclose(guided.std(axis=axes), COND.std(axis=axes), rtol=1e-5)
    np.testing.assert_allclose(guide(COND, UNCOND, 7.5, rescale=0.7), 0.7 * guided + 0.3 * plain, rtol=1e-5)
    assert np.isfinite(guide(jnp.ones((1, 2)), jnp.ones((1, 2)), 2.0, rescale=0.7)).all()


def test_guidance_is_within_its_interval():
    ratio = jnp.array([0.1, 0.28, 0.3, 5.42, 6.0])
    np.testing.assert_array_equal(interval_scale(4.0, ratio, 0.28, 5.42), [1, 1, 4, 4, 1])


def test_thresholds():
    x = 3 * COND
    assert np.abs(static_threshold(x, 0.8)).max() == np.float32(0.8)
    scale = np.maximum(np.quantile(np.abs(x).reshape(3, -1), 0.9, axis=1), 1).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(dynamic_threshold(x, 0.9), np.clip(x, -scale, scale) / scale, rtol=1e-5)
    np.testing.assert_allclose(dynamic_threshold(x, 0.9, 1.0), np.clip(x, -1, 1))
    small = 0.1 * jax.numpy.tanh(COND)
    np.testing.assert_array_equal(dynamic_threshold(small), small)


def test_a_threshold_moves_the_noise_with_the_sample():
    process = Process(threshold="static")
    x = jnp.asarray(2 * COND)
    said = estimate(process, jnp.asarray(UNCOND), x, jnp.float32(0.6), jnp.float32(0.8))
    assert np.abs(said.x0).max() == 1
    np.testing.assert_allclose(0.6 * said.x0 + 0.8 * said.epsilon, x, atol=1e-5)
