"""Every prediction turns into every other one and back."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.diffusion import convert
from fmzoo.diffusion.predictions import PREDICTIONS, combined, parts

LEVELS = {
    "variance preserving": (np.cos(np.linspace(0.05, 1.5, 7)), np.sin(np.linspace(0.05, 1.5, 7))),
    "variance exploding": (np.ones(7), np.geomspace(0.05, 20, 7)),
    "flow": (1 - np.linspace(0.05, 0.95, 7), np.linspace(0.05, 0.95, 7)),
}
RNG = np.random.default_rng(0)
X0, NOISE = RNG.standard_normal((2, 7, 3, 2))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize(("frm", "to"), list(itertools.product(PREDICTIONS, PREDICTIONS)))
def test_every_pair_converts_both_ways(kind, frm, to):
    alpha, sigma = (jnp.asarray(level) for level in LEVELS[kind])
    x = alpha[:, None, None] * X0 + sigma[:, None, None] * NOISE
    said = combined(jnp.asarray(X0), jnp.asarray(NOISE), frm, alpha, sigma, 0.7)
    there = convert(said, frm, to, x, alpha, sigma, 0.7)
    meant = combined(jnp.asarray(X0), jnp.asarray(NOISE), to, alpha, sigma, 0.7)
    np.testing.assert_allclose(there, meant, rtol=0, atol=1e-12)
    np.testing.assert_allclose(convert(there, to, frm, x, alpha, sigma, 0.7), said, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_predictions_are_the_papers():
    alpha, sigma, data = jnp.asarray(0.6), jnp.asarray(0.8), 0.5
    x0, noise = jnp.asarray(X0), jnp.asarray(NOISE)
    x = alpha * x0 + sigma * noise
    np.testing.assert_allclose(combined(x0, noise, "v_prediction", alpha, sigma), alpha * noise - sigma * x0)
    np.testing.assert_allclose(combined(x0, noise, "velocity", alpha, sigma), noise - x0)
    ratio = sigma / alpha
    skip, out = data**2 / (ratio**2 + data**2), ratio * data / np.sqrt(ratio**2 + data**2)
    f = combined(x0, noise, "edm", alpha, sigma, data)
    np.testing.assert_allclose(skip * x / alpha + out * f, x0, atol=1e-14)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.0, 1.0)])
def test_both_ends_are_finite(kind, alpha, sigma):
    x = jnp.asarray(X0, jnp.bfloat16)
    for part in parts(x, kind, x, jnp.float32(alpha), jnp.float32(sigma)):
        assert part.dtype == jnp.float32
        assert np.isfinite(part).all()
