"""With the exact score of a Gaussian mixture: how fast solvers converge between two noise levels, and to what."""

import numpy as np
import pytest

from fmzoo.diffusion import SOLVERS, Process, plan
from fmzoo.diffusion.schedules import karras
from tests.diffusion import mixture
from tests.diffusion.walking import walk

pytestmark = pytest.mark.usefixtures("x64")

LOW, HIGH = 0.15, 6.0  # sigma / alpha, inside every schedule
STEPS = (16, 32, 64, 128)
PROCESSES = {
    "betas": Process(prediction="epsilon"),
    "edm": Process(schedule="edm", prediction="edm"),
    "flow": Process(schedule="flow", prediction="velocity"),
}
CASES = [
    (solver, name)
    for solver, parts in SOLVERS.items()
    for name, process in PROCESSES.items()
    if process.schedule in parts.schedules
]
DETERMINISTIC = [case for case in CASES if not SOLVERS[case[0]].stochastic]
STOCHASTIC = [case for case in CASES if SOLVERS[case[0]].stochastic]


@pytest.fixture(scope="module")
def networks():
    return {name: mixture.network(process) for name, process in PROCESSES.items()}


def levels(process, ratio):
    rows = plan(process, "dpm++2m", [2 * ratio, ratio, ratio / 2]).rows
    return rows["alpha"][1], rows["sigma"][1]


def end(networks, solver, name, steps, x, noise_of=None):
    return np.asarray(walk(networks[name], plan(PROCESSES[name], solver, karras(steps + 1, LOW, HIGH)), x, noise_of))


@pytest.fixture(scope="module")
def exact(networks):
    """Starts in each process, and where their paths end: 2,000 steps of Heun or DPM-Solver++."""
    import jax

    with jax.enable_x64(True):
        ends = {}
        for name, process in PROCESSES.items():
            x = jax.numpy.asarray(mixture.draw(np.random.default_rng(3), 24, *levels(process, HIGH)))
            solver = "dpm++2m" if name == "flow" else "heun"
            ends[name] = x, end(networks, solver, name, 2000, x)
    return ends


@pytest.mark.parametrize(("solver", "name"), DETERMINISTIC)
def test_a_deterministic_solver_has_its_order(solver, name, networks, exact):
    x, there = exact[name]
    errors = [np.abs(end(networks, solver, name, steps, x) - there).mean() for steps in STEPS]
    slope = -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]
    assert slope >= SOLVERS[solver].order - 0.25, (slope, errors)


def test_all_solvers_solve_one_equation(exact):
    """The paths of three processes, of one start each, end at the same place over their alpha."""
    ratio = {name: there / levels(PROCESSES[name], LOW)[0] for name, (_, there) in exact.items()}
    np.testing.assert_allclose(ratio["betas"], ratio["edm"], atol=1e-5)
    np.testing.assert_allclose(ratio["flow"], ratio["edm"], atol=1e-4)


COUNT, BOUND = 6000, 5.0  # samples, and standard errors of the Monte-Carlo estimate


def deviations(samples, alpha, sigma):
    """The errors of the mean and of the covariance in their own standard errors."""
    mean, covariance = mixture.moments(alpha, sigma)
    centred = samples - mean
    products = centred[:, :, None] * centred[:, None, :]
    of_mean = np.abs(centred.mean(0)) / (centred.std(0) / np.sqrt(COUNT))
    of_covariance = np.abs(products.mean(0) - covariance) / (products.std(0) / np.sqrt(COUNT))
    return max(of_mean.max(), of_covariance.max())


@pytest.mark.parametrize(("solver", "name"), STOCHASTIC)
def test_a_stochastic_solver_draws_from_the_distribution(solver, name, networks):
    """At most 5 standard errors of 6,000 samples off in mean and covariance; without its noise it is far off."""
    process, rng = PROCESSES[name], np.random.default_rng(11)
    x = np.asarray(mixture.draw(rng, COUNT, *levels(process, HIGH)))
    there = levels(process, LOW)
    drawn = end(networks, solver, name, 150, jnp_of(x), lambda _: rng.standard_normal(x.shape))
    assert deviations(drawn, *there) < BOUND
    planted = end(networks, solver, name, 150, jnp_of(x), lambda _: np.zeros(x.shape))
    assert deviations(planted, *there) > 4 * BOUND


def jnp_of(x):
    import jax.numpy as jnp

    return jnp.asarray(x)
