"""The optimum under each weighting, and the times that are drawn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.diffusion import Process, add_noise, loss_weight, marginal, sample_times, target
from fmzoo.diffusion.predictions import combined
from fmzoo.errors import InputError

PREDICTIONS = ("epsilon", "sample", "v_prediction", "velocity", "edm")
# The weight of an error of x0, from the papers, by the ratio of signal to noise; gamma 3, k 2, data of deviation 0.5.
OF_X0 = {
    "snr": lambda snr: snr,
    "snr_plus_one": lambda snr: snr + 1,
    "truncated": lambda snr: np.maximum(snr, 1),
    "min_snr": lambda snr: np.minimum(snr, 3),
    "p2": lambda snr: snr / (2 + snr) ** 3,
    "edm": lambda snr: snr + 4,
}
# What an unweighted error of a prediction weighs an error of x0.
UNWEIGHTED = {
    "epsilon": lambda snr: snr,
    "sample": lambda snr: np.ones_like(snr),
    "v_prediction": lambda snr: snr + 1,
    "velocity": lambda snr: (1 + np.sqrt(snr)) ** 2,
    "edm": lambda snr: snr + 4,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("prediction", "kind"), list(itertools.product(PREDICTIONS, (*OF_X0, "none"))))
def test_the_best_linear_denoiser_of_gaussian_data(prediction, kind):
    """``x0 = theta x`` for data of variance v: ``theta = sum W alpha v / sum W (alpha^2 v + sigma^2)``.

    The expectation is exact: over x0 = +-s and epsilon = +-1 the second moments are those of Gaussians.
    """
    process, deviation = Process(prediction=prediction), 0.6
    t = jnp.asarray([3.0, 120.0, 480.0, 700.0, 999.0])
    points = jnp.asarray(list(itertools.product([-deviation, deviation], [-1.0, 1.0], range(len(t)))))
    x0, noise, times = points[:, 0], points[:, 1], t[points[:, 2].astype(int)]
    alpha, sigma = marginal(process, times)
    x, weight = add_noise(process, x0, noise, times), loss_weight(process, times, kind, gamma=3.0, k=2.0)

    def loss(theta):
        said = combined(theta * x, (x - alpha * theta * x) / sigma, prediction, alpha, sigma)
        return (weight * (said - target(process, x0, noise, times)) ** 2).mean()

    slope = jax.grad(loss)
    best = -slope(0.0) / (slope(1.0) - slope(0.0))
    a, s = (np.asarray(level) for level in marginal(process, t))
    of_x0 = UNWEIGHTED[prediction] if kind == "none" else OF_X0[kind]
    w = of_x0(a**2 / s**2)
    np.testing.assert_allclose(best, (w * a * deviation**2).sum() / (w * (a**2 * deviation**2 + s**2)).sum(), rtol=1e-9)


def test_min_snr_has_its_three_forms():
    t = jnp.array([10.0, 500.0, 990.0])
    alpha, sigma = marginal(Process(), t)
    snr = (alpha / sigma) ** 2
    least = jnp.minimum(snr, 5)
    forms = {"epsilon": least / snr, "sample": least, "v_prediction": least / (snr + 1)}
    for prediction, form in forms.items():
        np.testing.assert_allclose(loss_weight(Process(prediction=prediction), t, "min_snr"), form, rtol=1e-4)


def test_unknown_weightings_are_refused():
    with pytest.raises(InputError, match="weighting 'minsnr' is not known; the nearest are min_snr"):
        loss_weight(Process(), jnp.zeros(1), "minsnr")


KEYS = jax.random.split(jax.random.key(5), 4000)
FLOW = Process(schedule="flow", prediction="velocity", shift=3.0)
EDM = Process(schedule="edm", prediction="edm")


def noise_levels(process, **options):
    return np.asarray(sample_times(process, KEYS, **options))


def test_times_follow_their_densities():
    standard_error = 1 / np.sqrt(len(KEYS))
    steps = noise_levels(Process())
    assert set(np.unique(steps)) <= set(range(1000))
    np.testing.assert_allclose(steps.mean(), 499.5, atol=4 * 289 * standard_error)
    logits = -np.log(1 / (unshift(noise_levels(FLOW, density="logit_normal", mean=0.5, scale=0.7) / 1000)) - 1)
    np.testing.assert_allclose((logits.mean(), logits.std()), (0.5, 0.7), atol=4 * 0.7 * standard_error)
    u = np.linspace(0, 1, 100_001)
    mode = 1 - u - 1.29 * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    drawn = unshift(noise_levels(FLOW, density="mode") / 1000)
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(drawn, quantiles), np.quantile(mode, quantiles), atol=0.03)
    logs = 4 * noise_levels(EDM, density="edm")
    np.testing.assert_allclose((logs.mean(), logs.std()), (-1.2, 1.2), atol=4 * 1.2 * standard_error)
    of_betas = noise_levels(Process(), density="edm")
    alpha, sigma = marginal(Process(), jnp.asarray(of_betas))
    np.testing.assert_allclose(np.median(sigma / alpha), np.exp(-1.2), rtol=0.1)


def unshift(sigma):
    return sigma / (3 - 2 * sigma)


def test_a_time_depends_on_its_own_key_alone():
    np.testing.assert_array_equal(sample_times(Process(), KEYS)[5:9], sample_times(Process(), KEYS[5:9]))


def test_densities_without_meaning_are_refused():
    with pytest.raises(InputError, match="density 'mode' is for a flow"):
        sample_times(EDM, KEYS[:2], "mode")
    with pytest.raises(InputError, match="density 'logit-normal' is not known; the nearest are logit_normal"):
        sample_times(FLOW, KEYS[:2], "logit-normal")
