"""A process: its levels, what its network hears and says, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import diffusion
from fmzoo.diffusion import Process
from fmzoo.errors import InputError

VALID = [
    Process(schedule="linear", beta_start=1e-4, beta_end=0.02),
    Process(),
    Process(schedule="cosine", prediction="sample"),
    Process(zero_terminal_snr=True, prediction="v_prediction"),
    Process(schedule="edm", prediction="edm"),
    Process(schedule="flow", prediction="velocity", shift=3.0),
]
IDS = [f"{p.schedule}-{p.prediction}" for p in VALID]


def ends(process):
    """The first and the last time, and one between."""
    if process.schedule == "edm":
        return jnp.log(jnp.array([process.sigma_min, 1.0, process.sigma_max])) / 4
    return jnp.array([0.0, 400.0, process.num_train_timesteps - (process.schedule != "flow")])


@pytest.mark.parametrize("process", VALID, ids=IDS)
def test_nothing_is_nan_at_the_ends(process):
    t = ends(process)
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 2)).astype(jnp.bfloat16)
    x = diffusion.add_noise(process, x0, noise, t)
    said = diffusion.target(process, x0, noise, t)
    clean = diffusion.to_x0(process, said, x, t)
    for array in (x, said, clean, diffusion.to_epsilon(process, said, x, t), *diffusion.network_input(process, x, t)):
        assert array.dtype == jnp.float32
        assert np.isfinite(array).all()
    for kind in ("none", "snr", "snr_plus_one", "truncated", "min_snr", "p2", "edm"):
        assert np.isfinite(diffusion.loss_weight(process, t, kind)).all(), kind
    gradient = jax.grad(lambda t: sum(level.sum() for level in diffusion.marginal(process, t)))(t)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("process", VALID, ids=IDS)
@pytest.mark.usefixtures("x64")
def test_the_target_gives_back_what_it_was_made_of(process):
    t = jnp.asarray(ends(process)[1:2], jnp.float64)
    x0, noise = jax.random.normal(jax.random.key(0), (2, 1, 4, 2), jnp.float64)
    x, said = diffusion.add_noise(process, x0, noise, t), diffusion.target(process, x0, noise, t)
    np.testing.assert_allclose(diffusion.to_x0(process, said, x, t), x0, atol=1e-13)
    np.testing.assert_allclose(diffusion.to_epsilon(process, said, x, t), noise, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_levels_are_the_papers():
    _, sigma = diffusion.marginal(Process(), jnp.float64([999]))
    np.testing.assert_allclose(1 - sigma**2, 0.00466, atol=5e-6)  # of Stable Diffusion
    alpha, _ = diffusion.marginal(Process(schedule="linear", beta_start=1e-4, beta_end=0.02), jnp.float64([999]))
    np.testing.assert_allclose(alpha**2, 4.04e-5, atol=5e-8)
    alpha, _ = diffusion.marginal(Process(zero_terminal_snr=True, prediction="sample"), jnp.float64([0, 999]))
    assert alpha[1] == 0
    np.testing.assert_allclose(alpha[0], np.sqrt(1 - 0.00085), rtol=1e-7)
    alpha, sigma = diffusion.marginal(Process(schedule="edm", prediction="edm"), jnp.log(jnp.float64([80])) / 4)
    np.testing.assert_allclose((alpha[0], sigma[0]), (1, 80))
    alpha, sigma = diffusion.marginal(Process(schedule="flow", prediction="velocity"), jnp.float64([250]))
    np.testing.assert_allclose((alpha[0], sigma[0]), (0.75, 0.25))


@pytest.mark.usefixtures("x64")
def test_between_two_steps_the_ratio_is_interpolated():
    alpha, sigma = diffusion.marginal(Process(), jnp.float64([7, 7.25, 8]))
    ratio = sigma / alpha
    np.testing.assert_allclose(ratio[1], 0.75 * ratio[0] + 0.25 * ratio[2])
    np.testing.assert_allclose(alpha**2 + sigma**2, 1)


def test_a_learned_variance_is_split_off():
    process = Process(learned_variance=True)
    output = jnp.concatenate([jnp.ones((2, 4, 3)), -jnp.ones((2, 4, 3))], axis=-1)
    prediction, share = diffusion.split_variance(process, output)
    assert (prediction == 1).all()
    assert (share == 0).all()
    assert diffusion.to_x0(process, output, jnp.ones((2, 4, 3)), jnp.ones(2)).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero_terminal_snr": True}, "prediction 'epsilon' with zero_terminal_snr=True"),
        ({"schedule": "flow"}, "prediction 'epsilon' with schedule 'flow'"),
        ({"schedule": "liner"}, "schedule is 'liner'; the nearest are linear"),
        ({"prediction": "eps"}, "prediction is 'eps'"),
        ({"spacing": "karras"}, "spacing is 'karras'"),
        ({"beta_end": 1.5}, "beta_end is 1.5; below 1"),
        ({"beta_start": -1.0}, "beta_start is -1.0"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"sigma_min": 90.0}, "sigma_min is 90.0"),
        ({"threshold_percentile": 0.0}, "threshold_percentile"),
        ({"schedule": "edm", "prediction": "edm", "zero_terminal_snr": True}, "zero_terminal_snr is for"),
    ],
)
def test_bad_processes_are_refused(change, message):
    with pytest.raises(InputError) as error:
        dataclasses.replace(Process(), **change)
    assert message in str(error.value)
    assert len(str(error.value)) < 300
