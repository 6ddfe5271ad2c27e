"""The check of a user's loss passes what keeps the contract and names each way of breaking it."""

import functools

import jax
import jax.numpy as jnp
import pytest

from fmzoo.errors import InputError
from fmzoo.objectives import Mean, Objective, example_keys, weighted_mean
from fmzoo.train import check_objective
from tests.train import probes
from tests.train.probes import PROBES

ROWS, LENGTH, WIDTH = 6, 5, 3


def toy(seed=0):
    """Parameters, and a batch of a regression with uneven weights."""
    k = jax.random.split(jax.random.key(seed), 4)
    batch = {
        "x": jax.random.normal(k[0], (ROWS, LENGTH, WIDTH)),
        "y": jax.random.normal(k[1], (ROWS, LENGTH)),
        "weights": jax.random.uniform(k[2], (ROWS, LENGTH)) * (jnp.arange(LENGTH) < jnp.arange(1, ROWS + 1)[:, None]),
        "example_id": jnp.arange(10, 10 + ROWS, dtype=jnp.int32),
    }
    return {"w": jax.random.normal(k[3], (WIDTH,)), "b": jnp.zeros(())}, batch


def errors(params, batch, rng, keys=None):
    """Squared errors ``[B, T]`` of a noisy linear model, blind to what weighs nothing."""
    counts = batch["weights"] != 0
    x, y = jnp.where(counts[..., None], batch["x"], 0), jnp.where(counts, batch["y"], 0)
    keys = example_keys(rng, "noise", batch["example_id"]) if keys is None else keys
    noise = jax.vmap(lambda key: jax.random.normal(key, (LENGTH,)))(keys)
    return (x @ params["w"] + params["b"] + 0.1 * noise - y) ** 2


def sound(params, frozen, batch, rng, statistics=None):
    found = errors(params, batch, rng)
    return {"loss": weighted_mean(found, batch["weights"])}, {"large": weighted_mean(found > 1.0, batch["weights"])}


def mean_of_means(params, frozen, batch, rng, statistics=None):
    mean = sound(params, frozen, batch, rng)[0]["loss"]
    return {"loss": Mean(mean.total / mean.weight, jnp.ones(()))}, {}


def metric_of_means(params, frozen, batch, rng, statistics=None):
    terms, metrics = sound(params, frozen, batch, rng)
    large = metrics["large"]
    some = jnp.sum(jnp.any(batch["weights"] != 0, axis=1), dtype=jnp.float32)
    return terms, {"large": Mean(some * large.total / jnp.maximum(large.weight, 1e-6), some)}


def noise_by_place(params, frozen, batch, rng, statistics=None):
    found = errors(params, batch, rng, jax.random.split(rng, len(batch["y"])))
    return {"loss": weighted_mean(found, batch["weights"])}, {}


def counts_pads(params, frozen, batch, rng, statistics=None):
    found = errors(params, batch, rng)
    return {"loss": Mean(jnp.sum(found * batch["weights"]), jnp.asarray(found.size, jnp.float32))}, {}


def learns_from_pads(params, frozen, batch, rng, statistics=None):
    found = errors(params, batch, rng)
    return {"loss": Mean(jnp.sum(found), jnp.sum(batch["weights"]))}, {}


def weight_from_parameters(params, frozen, batch, rng, statistics=None):
    found = errors(params, batch, rng)
    return {"loss": weighted_mean(found, batch["weights"] * jax.nn.sigmoid(params["b"]))}, {}


def leaks_nan(params, frozen, batch, rng, statistics=None):
    found = (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2
    return {"loss": weighted_mean(found, batch["weights"])}, {}


def compares_rows(params, frozen, batch, rng, statistics=None):
    guess = jnp.sum((batch["x"] @ params["w"]) * batch["weights"], axis=1)
    some = jnp.any(batch["weights"] != 0, axis=1)
    return {"loss": weighted_mean(jax.nn.softplus(guess - jnp.roll(guess, 1)), some)}, {}


def prepare_mean(params, frozen, batch, rng):
    mean = weighted_mean(errors(params, batch, rng), batch["weights"])
    return {"centre": Mean(mean.total / mean.weight, jnp.any(batch["weights"] != 0).astype(jnp.float32))}


def prepare_profile(params, frozen, batch, rng):
    mean = prepare_mean(params, frozen, batch, rng)["centre"]
    return {"centre": Mean(mean.total * jnp.arange(1.0, 4.0), mean.weight)}


def around_profile(params, frozen, batch, rng, statistics=None):
    return around_centre(params, frozen, batch, rng, {"centre": jnp.mean(statistics["centre"])})


def around_centre(params, frozen, batch, rng, statistics=None):
    found = errors(params, batch, rng)
    return {"loss": weighted_mean(jax.nn.softplus(found - statistics["centre"]), batch["weights"])}, {}


def takes_pairs(params, frozen, batch, rng, statistics=None):
    guess = jnp.sum((batch["x"] @ params["w"]) * batch["weights"], axis=1).reshape(-1, 2)
    return {"loss": Mean(jnp.sum(jax.nn.softplus(guess[:, 0] - guess[:, 1])), jnp.sum(batch["weights"]))}, {}


BROKEN = {
    mean_of_means: {"microbatches", "devices", "nothing counts"},
    metric_of_means: {"microbatches", "devices"},
    noise_by_place: {"microbatches", "devices", "order of rows", "rows of weight 0", "padding"},
    counts_pads: {"rows of weight 0", "padding", "nothing counts"},
    learns_from_pads: {"rows of weight 0", "padding"},
    weight_from_parameters: {"weights"},
    leaks_nan: {"rows of weight 0"},
    compares_rows: {"microbatches", "devices", "order of rows", "rows of weight 0", "padding"},
    takes_pairs: {"microbatches", "devices", "order of rows"},
    Objective(around_profile, prepare_profile): {"microbatches", "devices", "statistics"},
}


def name_of(objective):
    return getattr(objective, "__name__", "around_profile")


@pytest.mark.parametrize("name", PROBES)
def test_every_kind_of_objective_keeps_its_promises(name, x64, monkeypatch):
    monkeypatch.setattr(probes, "decoder", functools.partial(probes.decoder, **probes.SMALLEST))
    probe = PROBES[name]()
    report = check_objective(probe.objective, probe.params, probe.frozen, probe.batch, coefficients=probe.coefficients)
    assert report, str(report)
    prepares = getattr(probe.objective, "prepare", None) is not None
    assert prepares == (name in ("prepared", "experts"))
    assert len(report.passed) == 7 + prepares


def test_a_sound_loss_passes_in_float32():
    params, batch = toy()
    report = check_objective(sound, params, {}, batch)
    assert report, str(report)
    assert report.untried == ("statistics: the objective prepares none",)
    assert str(report).startswith("kept: microbatches\nkept: devices\n")


@pytest.mark.parametrize("objective", BROKEN, ids=name_of)
def test_a_broken_promise_is_named(objective):
    params, batch = toy()
    report = check_objective(objective, params, {}, batch)
    assert not report
    assert BROKEN[objective] <= {failure.partition(":")[0] for failure in report.failures}, str(report)
    for failure in report.failures:
        assert len(failure) < 300
        assert f"FAILED: {failure}" in str(report)
    if objective is leaks_nan:
        assert "jnp.where(weights != 0, field, 0)" in report.failures[0]


def test_a_loss_without_a_gradient_cannot_be_compared():
    params, batch = toy()
    still = lambda params, *rest: sound(jax.lax.stop_gradient(params), *rest)  # noqa: E731
    assert "gradient is 0 everywhere" in check_objective(still, params, {}, batch).failures[0]
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    assert "not finite" in check_objective(sound, broken, {}, batch).failures[0]


def test_what_a_batch_cannot_show_is_said():
    params, batch = toy()

    def unweighted(params, frozen, batch, rng, statistics=None):
        found = errors(params, batch | {"weights": jnp.ones_like(batch["y"])}, rng)
        return {"loss": weighted_mean(found, jnp.ones_like(found))}, {}

    seven = {name: jnp.concatenate([value, value[:1]]) for name, value in batch.items() if name != "weights"}
    seven["example_id"] = jnp.arange(7, dtype=jnp.int32)
    report = check_objective(unweighted, params, {}, seven)
    assert report
    assert "padding: the batch has no field called weights or ..._weights" in report.untried


def scalar_loss(params, frozen, batch, rng, statistics=None):
    return jnp.mean(errors(params, batch, rng))


def unreduced(params, frozen, batch, rng, statistics=None):
    found = errors(params, batch, rng)
    return {"loss": Mean(found, batch["weights"])}, {}


@pytest.mark.parametrize("objective", [scalar_loss, unreduced])
def test_what_is_no_objective_is_refused(objective):
    params, batch = toy()
    with pytest.raises(InputError, match=r"objective returns .*\(terms, metrics\), both \{name: Mean"):
        check_objective(objective, params, {}, batch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: {k: v for k, v in b.items() if k != "example_id"}, "batch has no example_id"),
        (lambda b: b | {"y": b["y"][:4]}, r"batch field y has shape \(4, 5\); 6 rows as in example_id are needed"),
        (lambda b: {k: v[:1] for k, v in b.items()}, "at least 2 rows"),
        (lambda b: b | {"weights": b["weights"].at[1:].set(0)}, "batch has weight on 1 rows; at least 2 are needed"),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused(change, words):
    params, batch = toy()
    with pytest.raises(InputError, match=words):
        check_objective(sound, params, {}, change(batch))


def test_a_coefficient_is_used():
    params, batch = toy()
    with pytest.raises(InputError, match="coefficient 'lost' names no term"):
        check_objective(sound, params, {}, batch, coefficients={"lost": 1.0})
