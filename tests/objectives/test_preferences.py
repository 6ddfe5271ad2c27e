"""Preference losses beside their papers' formulas in NumPy, and the objectives' promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.objectives import (
    Mean,
    completion_log_probs,
    divide,
    dpo_losses,
    hinge_losses,
    ipo_losses,
    kto,
    kto_losses,
    odds_ratio_losses,
    preference,
    simpo_losses,
)
from fmzoo.objectives.preferences import log_odds
from fmzoo.train import check_objective
from tests.objectives.small_policy import (
    POLICY,
    completions,
    ids,
    numpy_log_probs,
    pairs,
    params,
    split_apart,
    terms_of,
)
from tests.train.test_exactness import statistics_by_part

BETA = 0.3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def odds(p):
    return p / (1 - p)


FORMULAS = {  # the paper's formula of what the loss is given, written out
    "dpo": (functools.partial(dpo_losses, beta=BETA), lambda c, r: -np.log(sigmoid(BETA * c - BETA * r))),
    "cdpo": (
        functools.partial(dpo_losses, beta=BETA, label_smoothing=0.2),
        lambda c, r: -0.8 * np.log(sigmoid(BETA * (c - r))) - 0.2 * np.log(sigmoid(BETA * (r - c))),
    ),
    "robust": (
        functools.partial(dpo_losses, beta=BETA, label_smoothing=0.2, robust=True),
        lambda c, r: (-0.8 * np.log(sigmoid(BETA * (c - r))) + 0.2 * np.log(sigmoid(BETA * (r - c)))) / 0.6,
    ),
    "ipo": (functools.partial(ipo_losses, tau=BETA), lambda c, r: (c - r - 0.5 / BETA) ** 2),
    "hinge": (functools.partial(hinge_losses, beta=BETA), lambda c, r: np.maximum(0, 1 - BETA * (c - r))),
    "simpo": (functools.partial(simpo_losses, beta=2.5, gamma=0.7), lambda c, r: -np.log(sigmoid(2.5 * (c - r) - 0.7))),
    "orpo": (
        functools.partial(odds_ratio_losses, coefficient=0.1),
        lambda c, r: -0.1 * np.log(sigmoid(np.log(odds(np.exp(c)) / odds(np.exp(r))))),
    ),
}
SETTINGS = {"ipo": {"average": True}, "simpo": {"reference": None, "average": True}}
SETTINGS["orpo"] = SETTINGS["simpo"] | {"nll": 1.0}


@pytest.mark.parametrize("name", FORMULAS)
def test_each_loss_is_its_formula(name, x64):
    losses, formula = FORMULAS[name]
    rng = np.random.default_rng(0)
    chosen, rejected = -rng.uniform(0.01, 4, 50), -rng.uniform(0.01, 4, 50)
    np.testing.assert_allclose(
        losses(jnp.asarray(chosen), jnp.asarray(rejected)), formula(chosen, rejected), rtol=1e-12
    )


def test_odds_are_finite_at_both_ends():
    logs = jnp.asarray([-1e-30, -1e-6, -1e-3, -0.5, -3.0, -90.0])
    found, slope = jax.vmap(jax.value_and_grad(log_odds))(logs)
    assert np.isfinite(found).all()
    assert np.isfinite(slope).all()
    exact = np.asarray(logs[2:], np.float64) - np.log(-np.expm1(np.asarray(logs[2:], np.float64)))
    np.testing.assert_allclose(found[2:], exact, rtol=1e-6)


def expected_pairs(tree, frozen, batch, average, reference=True):
    """What a loss of pairs is given, sequence by sequence in NumPy."""
    found = []
    for side in ("chosen", "rejected"):
        fields = {name.removeprefix(f"{side}_"): value for name, value in batch.items() if name.startswith(side)}
        ratio = numpy_log_probs(tree, fields) - (numpy_log_probs(frozen, fields) if reference else 0)
        weights = np.asarray(fields["weights"])
        sums = (ratio * weights).sum(axis=1)
        found.append(sums / weights.sum(axis=1) if average else sums)
    return found


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo"])
def test_the_objective_gives_the_loss_of_the_sequences(name, x64):
    losses, formula = FORMULAS[name]
    tree, frozen, batch = params(0), params(1), pairs()
    objective = preference(POLICY, losses, **SETTINGS.get(name, {}))
    found = terms_of(objective, tree, {"reference": frozen}, batch)
    weights = np.asarray(batch["weights"])
    chosen, rejected = expected_pairs(tree, frozen, batch, name != "dpo", name != "orpo")
    assert found["loss"] == pytest.approx(np.average(formula(chosen, rejected), weights=weights), rel=1e-6)
    assert found["accuracy"] == pytest.approx(np.average(chosen > rejected, weights=weights), rel=1e-6)
    assert found["margin"] == pytest.approx(np.average(chosen - rejected, weights=weights), rel=1e-6)
    if name == "orpo":
        assert found["nll"] == pytest.approx(-np.average(chosen, weights=weights), rel=1e-6)
        over_all = preference(POLICY, losses, reference=None, average=True, nll=2.0, nll_over="all")
        fields = {field: batch[f"chosen_{field}"] for field in ("inputs", "targets", "segment_ids")}
        counted = np.asarray(fields["segment_ids"]) * weights[:, None]
        nll = -2 * np.average(numpy_log_probs(tree, fields), weights=counted)
        assert terms_of(over_all, tree, {}, batch)["nll"] == pytest.approx(nll, rel=1e-6)


def test_packed_pairs_are_pairs(x64):
    """Two pairs in a row, the reference's sums cached, give the loss that they give in rows of their own."""
    tree, frozen, batch = params(0), params(1), pairs()
    packed = {"weights": batch["weights"].reshape(3, 2), "example_id": batch["example_id"][:3]}
    for name, value in batch.items():
        if name.startswith(("chosen_", "rejected_")):
            rows = value.reshape(3, 2, -1)
            second = jnp.where(rows[:, 1] > 0, 2, 0) if name.endswith("segment_ids") else rows[:, 1]
            packed[name] = jnp.concatenate([rows[:, 0], second], axis=1)
    objective = preference(POLICY, dpo_losses, nll=0.5)
    alone = terms_of(objective, tree, {"reference": frozen}, batch)
    packed |= completion_log_probs(POLICY, frozen, packed)
    assert packed["reference_chosen"].shape == (3, 2)
    assert terms_of(objective, tree, {}, packed) == pytest.approx(alone, rel=1e-6)
    report = check_objective(objective, tree, {}, packed)
    assert report, str(report)


def mean_of_means(objective):
    def wrong(tree, frozen, batch, rng, statistics=None):
        terms, metrics = objective(tree, frozen, batch, rng, statistics)
        return {n: Mean(divide(t), jnp.where(t.weight > 0, 1.0, 0.0)) for n, t in terms.items()}, metrics

    return wrong


def test_a_mean_of_means_over_pairs_is_seen(x64):
    objective = preference(POLICY, FORMULAS["orpo"][0], **SETTINGS["orpo"])
    assert split_apart(objective, params(0), {}, pairs()) < 1e-9
    assert split_apart(mean_of_means(objective), params(0), {}, pairs()) > 1e-3


def unpaired():
    batch = completions(5) | completions(6, prefix="mismatched_") | ids()
    batch["weights"] = batch["weights"].at[3].set(0)
    batch["mismatched_weights"] = batch["mismatched_weights"].at[3].set(0)
    return batch | {"desirable": jnp.asarray([1.0, 0, 1, 1, 0, 1])}


def test_kto_is_its_formula(x64):
    tree, frozen, batch = params(2), params(1), unpaired()
    objective = kto(POLICY, beta=BETA, desirable_weight=1.2, undesirable_weight=0.9)
    there = np.asarray([1, 1, 1, 0, 1, 1], bool)

    def ratios(prefix):
        fields = {name: batch[prefix + name] for name in ("inputs", "targets", "weights", "segment_ids")}
        ratio = numpy_log_probs(tree, fields) - numpy_log_probs(frozen, fields)
        return (ratio * np.asarray(fields["weights"])).sum(axis=1)[there]

    z = max(0, ratios("mismatched_").mean())
    good, found = np.asarray(batch["desirable"])[there] == 1, ratios("")
    losses = np.where(good, 1.2 * (1 - sigmoid(BETA * (found - z))), 0.9 * (1 - sigmoid(BETA * (z - found))))
    means = objective.prepare(tree, {"reference": frozen}, batch, jax.random.key(0))
    told = {"divergence": means["divergence"].total / means["divergence"].weight}
    got = terms_of(objective, tree, {"reference": frozen}, batch, told)
    assert got["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert got["reference_point"] == pytest.approx(z, rel=1e-6)
    assert got["desirable"] == pytest.approx(found[good].mean(), rel=1e-6)


def test_ktos_reference_point_has_no_gradient(x64):
    slope = jax.grad(lambda z: jnp.sum(kto_losses(jnp.ones(2), jnp.asarray([1.0, 0]), z)))(jnp.asarray(0.4))
    assert slope == 0


def test_ktos_reference_point_is_that_of_the_whole_batch(x64):
    """That it keeps all promises is seen with another objective beside it."""
    batch, objective, frozen = unpaired(), kto(POLICY, beta=BETA), {"reference": params(1)}
    assert split_apart(objective, params(2), frozen, batch) < 1e-9
    assert split_apart(statistics_by_part(objective), params(2), frozen, batch) > 1e-3
    told = {"reference_completion": jnp.full(6, -9.0), "reference_mismatched": jnp.full(6, -8.0).at[3].set(jnp.nan)}
    point = objective.prepare(params(2), {}, batch | told, jax.random.key(0))["divergence"]
    assert np.isfinite(point.total)


def test_sides_of_other_shapes_are_refused():
    batch = pairs()
    objective = preference(POLICY, dpo_losses, reference=None)
    with pytest.raises(InputError, match="batch has no rejected_segment_ids beside the other side's"):
        objective(params(), {}, {k: v for k, v in batch.items() if k != "rejected_segment_ids"}, jax.random.key(0))
    with pytest.raises(InputError, match=r"rejected_inputs has shape \(6, 6\); \[B T\] with B=6, T=7 is needed"):
        objective(params(), {}, batch | {"rejected_inputs": batch["rejected_inputs"][:, 1:]}, jax.random.key(0))
