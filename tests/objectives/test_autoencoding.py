"""Training an autoencoder against a discriminator: closed forms, and two states that any split moves alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from fmzoo import parallel, train
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL
from fmzoo.models.autoencoder_sharding import AUTOENCODER_RULES
from fmzoo.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from fmzoo.models.image_accounting import image_model_shapes
from fmzoo.objectives.autoencoding import (
    COEFFICIENTS,
    autoencoding,
    discrimination,
    hinge_loss,
    kl_to_normal,
    reconstruct,
)
from fmzoo.objectives.contract import Objective, divide
from fmzoo.train.gradients import gradients
from tests.models.test_autoencoder import critic_shapes, random_params

ROWS = 32  # so that each of 4 microbatches has a row on each of 8 devices


class Case:
    """The smallest networks, their two states and a batch with weights that differ, one of them 0 with NaN."""

    def __init__(self, dtype="float32"):
        self.module = AutoencoderKL(
            AutoencoderConfig(channels=(4,), layers_per_block=1, norm_groups=2, mid_attention=False, dtype=dtype)
        )
        self.critic = PatchDiscriminator(DiscriminatorConfig(features=2, num_layers=1, norm_groups=1, dtype=dtype))
        image = np.random.default_rng(0).uniform(-1, 1, (ROWS, 6, 6, 3)).astype(dtype)
        weights = np.linspace(0.1, 2, ROWS).astype(dtype)
        image[3], weights[3] = np.nan, 0
        ids = np.arange(100, 100 + ROWS, dtype=np.int32)
        self.batch = {"image": jnp.asarray(image), "weights": jnp.asarray(weights), "example_id": jnp.asarray(ids)}
        shapes = {"autoencoder": image_model_shapes(self.module.config)}
        shapes["discriminator"] = {
            path: leaf.shape for path, leaf in flatten_dict(critic_shapes(self.critic.config), sep="/").items()
        }
        self.params = {
            name: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), random_params(found))
            for name, found in shapes.items()
        }
        self.params["discriminator"]["score"]["bias"] += 2.6  # so that some scores are past the hinge

    def objectives(self, adaptive):
        return {
            "autoencoder": autoencoding(self.module, self.critic, adaptive=adaptive, squared=0.5),
            "discriminator": discrimination(self.module, self.critic),
        }

    def states(self):
        return {
            name: train.init_state(params, optax.sgd(1.0), jax.random.key(7)) for name, params in self.params.items()
        }

    def step(self, microbatches=1, objectives=None):
        """Both states in turn, as training does it."""
        coefficients = {"autoencoder": COEFFICIENTS | {"kl": 1e-2}, "discriminator": None}
        steps = []
        for name, objective in (objectives or self.objectives(True)).items():
            compute = gradients(objective, coefficients[name], microbatches=microbatches)
            steps.append(train.on(name, train.update(compute, optax.sgd(1.0))))
        return train.in_turn(*steps)


def test_the_divergence_is_that_of_gaussians():
    mean, logvar = jnp.zeros((2, 1, 1, 3)), jnp.zeros((2, 1, 1, 3))
    np.testing.assert_array_equal(kl_to_normal(mean, logvar), 0)
    mean, logvar = jnp.array([1.0, -2.0]).reshape(1, 1, 1, 2), jnp.log(jnp.array([4.0, 0.25])).reshape(1, 1, 1, 2)
    x = np.linspace(-40, 40, 400_001)
    total = 0.0
    for m, v in ((1.0, 4.0), (-2.0, 0.25)):
        p = np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
        total += np.sum(p * (-((x - m) ** 2) / (2 * v) - 0.5 * np.log(v) + x**2 / 2)) * (x[1] - x[0])
    np.testing.assert_allclose(kl_to_normal(mean, logvar), total, rtol=1e-5)


def test_the_hinge_stops_at_one():
    real, made = jnp.array([2.0, 0.5]).reshape(1, 1, 2), jnp.array([-3.0, 0.25]).reshape(1, 1, 2)
    np.testing.assert_allclose(hinge_loss(real, made), 0.5 * (0.5 + 1.25) / 2)


def distance(a, b):
    """The largest relative L2 distance of a leaf."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-300)) for x, y in pairs)


def moved(case, step):
    """How far one step moves the parameters of both states, and its metrics."""
    new, metrics = step(case.states(), {}, case.batch)
    before, after, metrics = jax.device_get((case.params, {name: state.params for name, state in new.items()}, metrics))
    return jax.tree.map(np.subtract, before, after), metrics


def by_parts(objective):
    """An adaptive weight made from the rows at hand, as batches of the reference make it."""

    def terms(params, frozen, batch, rng, statistics=None):
        means = objective.prepare(params, frozen, batch, rng)
        own = {name: jax.lax.stop_gradient(divide(mean)) for name, mean in means.items()}
        return objective.terms(params, frozen, batch, rng, own)

    return Objective(terms)


@pytest.fixture(scope="module")
def exact():
    """In float64: the case, a step, and what it does over the whole batch."""
    with jax.enable_x64(True):
        case = Case("float64")
        step = jax.jit(case.step())
        yield case, step, *moved(case, step)


def test_one_batch_moves_both_states_as_four_microbatches_on_eight_devices_do(exact):
    case, _, whole, metrics = exact
    assert all(np.linalg.norm(leaf) > 0 for leaf in jax.tree.leaves(whole))
    step = parallel.compile(case.step(microbatches=4), parallel.mesh("data=4,fsdp=2"), AUTOENCODER_RULES)
    split, split_metrics = moved(case, step)
    assert distance(split, whole) < 1e-9
    for name in ("autoencoder/loss", "autoencoder/adversarial", "discriminator/hinge"):
        assert split_metrics[name] == pytest.approx(metrics[name], rel=1e-9)


def test_terms_are_weighted_means_of_each_row(exact):
    case, _, _, metrics = exact
    image, ids = case.batch["image"].at[3].set(0), case.batch["example_id"]
    rng = jax.random.fold_in(jax.random.key(7), 0)
    made, mean, logvar = jax.jit(functools.partial(reconstruct, case.module))(
        case.params["autoencoder"], image, rng, ids
    )
    squares = ((made - image) ** 2).mean((1, 2, 3))
    rows = {
        "reconstruction": np.abs(made - image).mean((1, 2, 3)) + 0.5 * squares,
        "kl": kl_to_normal(mean, logvar) / (6 * 6 * 3),
        "squared_error": squares,
    }
    for name, values in rows.items():
        expected = np.average(values, weights=case.batch["weights"])
        assert metrics[f"autoencoder/{name}"] == pytest.approx(expected, rel=1e-9), name


def test_weights_do_not_depend_on_the_parameters(exact):
    case, step, _, metrics = exact
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), case.params)
    states = {name: state.replace(params=broken[name]) for name, state in case.states().items()}
    _, spoilt = step(states, {}, case.batch)
    assert np.isnan(spoilt["autoencoder/loss"])
    assert np.isnan(spoilt["discriminator/loss"])
    for name in ("autoencoder/weight", "discriminator/weight"):
        assert spoilt[name] == metrics[name] > 0


def test_an_adaptive_weight_of_each_part_is_seen(exact):
    case, _, whole, _ = exact
    planted = {"autoencoder": by_parts(case.objectives(True)["autoencoder"])}
    spoilt, _ = moved(case, jax.jit(case.step(4, planted)))
    assert distance(spoilt["autoencoder"], whole["autoencoder"]) > 1e-3


def test_the_adaptive_weight_is_the_ratio_of_gradients(exact):
    """Of the last kernel, by the definition: from gradients of the two terms over the whole batch."""
    case, _, _, metrics = exact
    objective = case.objectives(True)["autoencoder"]
    params, told = case.params["autoencoder"], {"discriminator": case.params["discriminator"]}
    rng = jax.random.fold_in(jax.random.key(7), 0)

    def mean(params, name):
        term = objective.terms(params, told, case.batch, rng)[0][name]
        return term.total / term.weight

    @jax.jit
    def norms(params):
        grads = [jax.grad(mean)(params, name) for name in ("reconstruction", "adversarial")]
        return [jnp.linalg.norm(g["decoder"]["out"]["conv"]["kernel"]) for g in grads] + [mean(params, "adversarial")]

    one, other, plain = norms(params)
    assert metrics["autoencoder/adversarial"] == pytest.approx(float(plain * one / (other + 1e-4)), rel=1e-9)
    assert abs(one / other - 1) > 0.1


def test_a_batch_of_weight_0_moves_nothing(exact):
    case, step, _, _ = exact
    nothing = case.batch | {"weights": jnp.zeros(ROWS)}
    new, metrics = step(case.states(), {}, nothing)
    jax.tree.map(np.testing.assert_array_equal, {name: state.params for name, state in new.items()}, case.params)
    assert metrics["autoencoder/loss"] == metrics["discriminator/loss"] == 0
