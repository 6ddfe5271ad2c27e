"""Solvers against the algorithms as published, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.diffusion import SOLVERS, Process, initial, plan, step
from fmzoo.errors import InputError
from tests.diffusion import mixture
from tests.diffusion.walking import walk

EDM = Process(schedule="edm", prediction="edm")
STEPS = 7


def sigmas():
    """EDM's, equation 5."""
    i = np.arange(STEPS)
    return np.append((80 ** (1 / 7) + i / (STEPS - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0.0)


def denoised(x, sigma):
    return np.asarray(mixture.posterior_mean(jnp.asarray(x), 1.0, sigma))


def edm_algorithm_1(x):
    t = sigmas()
    for i in range(STEPS):
        d = (x - denoised(x, t[i])) / t[i]
        moved = x + (t[i + 1] - t[i]) * d
        if t[i + 1] != 0:
            d_end = (moved - denoised(moved, t[i + 1])) / t[i + 1]
            moved = x + (t[i + 1] - t[i]) * (0.5 * d + 0.5 * d_end)
        x = moved
    return x


def euler(x, noise_of=None):
    """k-diffusion's `sample_euler`, and with noise its `sample_euler_ancestral`."""
    t = sigmas()
    for i in range(STEPS):
        down, up = t[i + 1], 0.0
        if noise_of is not None:
            up = np.sqrt(t[i + 1] ** 2 * (t[i] ** 2 - t[i + 1] ** 2) / t[i] ** 2)
            down = np.sqrt(t[i + 1] ** 2 - up**2)
        x = x + (x - denoised(x, t[i])) / t[i] * (down - t[i])
        if noise_of is not None:
            x = x + up * noise_of(i)
    return x


def noise_of(i):
    return np.random.default_rng(int(i)).standard_normal((9, 2))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("solver", "published"),
    [("heun", edm_algorithm_1), ("euler", euler), ("euler-a", lambda x: euler(x, noise_of))],
)
def test_edm_processes_follow_the_published_algorithms(solver, published):
    x = 80 * noise_of(100)
    ours = walk(mixture.network(EDM), plan(EDM, solver, STEPS), jnp.asarray(x), noise_of)
    np.testing.assert_allclose(ours, published(x), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_heun_does_not_correct_a_step_out_of_pure_noise():
    """On the cosine schedule, from sigma / alpha of 20,291 to 6.4: corrected, the samples would be 12 away."""
    process = Process(schedule="cosine", prediction="v_prediction", spacing="trailing")
    network, noise = mixture.network(process), jnp.asarray(np.random.default_rng(0).standard_normal((64, 2)))

    def end(solver, steps):
        walk_ = plan(process, solver, steps)
        return walk(network, walk_, initial(walk_, noise))

    solution = end("heun", 300)
    far = {
        (solver, n): np.sqrt(np.mean((end(solver, n) - solution) ** 2)) for solver in ("heun", "euler") for n in (5, 20)
    }
    assert len(plan(process, "heun", 10)) == 18
    assert far["heun", 5] < 0.09
    assert far["heun", 20] < min(0.01, far["heun", 5] / 8, far["euler", 20] / 4)


def test_plans_are_float64_and_count_evaluations():
    evaluations = {name: len(plan(Process(), name, 10)) for name, s in SOLVERS.items() if "linear" in s.schedules}
    assert evaluations == {
        "ddpm": 10, "ddim": 10, "euler": 10, "euler-a": 10, "heun": 19, "dpm++2m": 10, "dpm++2m-sde": 10, "unipc": 10,
        "plms": 11,
    }  # fmt: skip
    rows = plan(Process(), "unipc", 10).rows
    assert {column.dtype for name, column in rows.items() if name != "step"} == {np.dtype(np.float64)}


def test_given_levels_are_visited_and_the_last_is_not_zero():
    rows = plan(Process(), "dpm++2m", [5.0, 1.0, 0.2]).rows
    np.testing.assert_allclose(rows["sigma"] / rows["alpha"], [5.0, 1.0])
    rows = plan(Process(), "heun", [5.0, 1.0, 0.2]).rows
    np.testing.assert_allclose(rows["sigma"] / rows["alpha"], [5.0, 1.0, 1.0, 0.2])


def test_defaults_are_the_solvers_own():
    process = Process(spacing="default", threshold="default", final_alpha_one="default")
    assert [plan(process, name, 4).process.spacing for name in ("ddim", "euler")] == ["leading", "linspace"]
    assert [plan(process, name, 4).process.threshold for name in ("ddpm", "dpm++2m")] == ["static", None]
    assert [plan(process, name, 4).process.final_alpha_one for name in ("ddim", "plms")] == [True, False]


@pytest.mark.parametrize(
    ("solver", "steps", "message"),
    [
        ("dpm++", 10, "solver 'dpm++' is not known; the nearest are dpm++2m"),
        ("flow-euler", 10, "solver 'flow-euler' needs a schedule of flow; this process has 'scaled_linear'"),
        ("ddim", 0, "steps is 0; 1 to num_train_timesteps, 1000"),
        ("euler", 1001, "steps is 1001"),
        ("euler", "ten", "steps is 'ten'"),
        ("euler", True, "steps is 'True'"),
        ("euler", [1.0, 2.0], "must be at least two falling numbers"),
        ("euler", [1.0], "must be at least two falling numbers"),
    ],
)
def test_bad_plans_are_refused(solver, steps, message):
    with pytest.raises(InputError) as error:
        plan(Process(), solver, steps)
    assert message in str(error.value)
    assert len(str(error.value)) < 300


def test_other_bad_input_is_refused():
    with pytest.raises(InputError, match="start is 10; 0 to 9"):
        plan(Process(), "ddim", 10, start=10)
    with pytest.raises(InputError, match="'ddpm' needs a schedule of linear, scaled_linear, cosine; this process has"):
        plan(EDM, "ddpm", 10)
    with pytest.raises(InputError, match="solver 'unipcc' is not known; the nearest are unipc"):
        step("unipcc")
