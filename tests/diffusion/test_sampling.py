"""The loop: it is the steps one after another, rows do not see each other, and a walk can begin anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.diffusion import SOLVERS, Process, follow, initial, noised, plan, sample
from fmzoo.errors import InputError
from tests.diffusion.walking import walk

SHAPE = (4, 4, 3)
KEYS = jax.random.split(jax.random.key(3), 4)
LATENTS = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(KEYS)
MIXING = np.random.default_rng(2).standard_normal((3, 3)).astype(np.float32)
ZERO_SNR = Process(zero_terminal_snr=True, prediction="v_prediction", spacing="trailing")
FLOW = Process(schedule="flow", prediction="velocity", shift=3.0)


def process_of(solver):
    return FLOW if solver == "flow-euler" else ZERO_SNR


class Network:
    """A network for data of deviation a half, with a part that is not linear, in a dtype of its own."""

    def __init__(self, process, dtype):
        self.process, self.dtype = process, dtype

    def __call__(self, x, t):
        from fmzoo.diffusion import marginal
        from fmzoo.diffusion.predictions import combined

        alpha, sigma = (level.reshape(-1, 1, 1, 1).astype(self.dtype) for level in marginal(self.process, t))
        x = x.astype(self.dtype)
        x0 = jnp.tanh(alpha * x / (4 * sigma**2 + alpha**2) + x @ jnp.asarray(0.2 * MIXING, self.dtype))
        noise = (x - alpha * x0) / jnp.maximum(sigma, 0.02)
        return combined(x0, noise, self.process.prediction, alpha, sigma).astype(self.dtype)


@pytest.fixture(scope="module")
def networks():
    return {
        (name, dtype): Network(process, dtype)
        for name, process in (("flow", FLOW), ("betas", ZERO_SNR))
        for dtype in (jnp.float32, jnp.bfloat16)
    }


def network_of(networks, solver, dtype):
    return networks["flow" if solver == "flow-euler" else "betas", dtype]


def noise_of(step):
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), SHAPE))(KEYS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_loop_is_the_steps_one_after_another(solver, networks):
    """With a network of half precision too, whose samples are float32."""
    process, network = process_of(solver), network_of(networks, solver, jnp.bfloat16)
    drawn = jax.jit(lambda x, keys: sample(network, process, solver, 25, x, keys))(LATENTS, KEYS)
    walk_ = plan(process, solver, 25)
    one_by_one = walk(network, walk_, initial(walk_, LATENTS), noise_of)
    assert drawn.dtype == one_by_one.dtype == jnp.float32
    np.testing.assert_allclose(drawn, one_by_one, atol=0.05)
    assert np.abs(drawn - one_by_one).mean() < 0.005
    assert one_by_one.std() > 0.2


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm++2m-sde", "plms"])
def test_a_row_does_not_see_its_batch(solver, networks):
    network = network_of(networks, solver, jnp.float32)
    whole = sample(network, process_of(solver), solver, 4, LATENTS, KEYS)
    alone = sample(network, process_of(solver), solver, 4, LATENTS[2:3], KEYS[2:3])
    np.testing.assert_allclose(whole[2:3], alone, atol=1e-5)
    assert np.abs(whole[1] - whole[2]).max() > 0.1


@pytest.mark.parametrize("solver", ["ddim", "euler", "heun", "flow-euler"])
def test_a_walk_can_begin_in_a_noised_picture(solver, networks):
    """Skipped steps leave the rest as it was, for solvers without a memory from step to step."""
    process, network = process_of(solver), network_of(networks, solver, jnp.float32)
    whole, seen = plan(process, solver, 8), []
    at = lambda i, x0: seen.append((int(i), np.asarray(x0)))  # noqa: E731
    follow(network, whole, initial(whole, LATENTS), on_step=at)
    jax.effects_barrier()
    assert sorted({i for i, _ in seen}) == list(range(8))
    assert [i for i, _ in seen] == sorted(i for i, _ in seen)
    part = plan(process, solver, 8, start=5)
    assert part.rows["step"].tolist()[0] == 5
    np.testing.assert_allclose(part.rows["time"], whole.rows["time"][-len(part) :])
    x = noised(part, 0.1 * LATENTS, LATENTS)
    rest = sample(network, process, solver, 8, x, start=5)
    np.testing.assert_allclose(rest, walk(network, part, x), atol=1e-4)


def test_memory_starts_afresh_where_the_walk_begins():
    """The first row after skipped steps asks nothing of an estimate that was not made."""
    assert plan(ZERO_SNR, "dpm++2m", 30, start=4).rows["change"][0] == 0
    assert plan(ZERO_SNR, "unipc", 30, start=4).rows["corrects"][0] == 0
    np.testing.assert_array_equal(plan(ZERO_SNR, "plms", 30, start=4).rows["weights"][0], [1, 0, 0, 0])


def test_a_constraint_holds_at_every_level(networks):
    known = jnp.full((4, *SHAPE), 0.3).at[:, 2:].set(jnp.nan)

    def keep(x, row):
        return jnp.where(jnp.isnan(known), x, row["next_alpha"] * known)

    drawn = sample(network_of(networks, "ddim", jnp.float32), ZERO_SNR, "ddim", 5, LATENTS, constrain=keep)
    last = plan(ZERO_SNR, "ddim", 5).rows["next_alpha"][-1]
    np.testing.assert_allclose(drawn[:, :2], 0.3 * last, rtol=1e-6)
    assert np.isfinite(drawn).all()


def test_a_stochastic_solver_needs_keys(networks):
    with pytest.raises(InputError, match="'ddpm' draws noise; keys"):
        sample(network_of(networks, "ddpm", jnp.float32), ZERO_SNR, "ddpm", 5, LATENTS)
