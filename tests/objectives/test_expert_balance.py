"""The balance loss by its definition, at its extremes, and over rows that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models, objectives
from fmzoo.errors import InputError
from fmzoo.objectives import balance_term, divide, normaliser_term, sum_reports
from fmzoo.objectives.expert_balance import load_means, peak_load
from tests.train.probes import decoder, params_of, text_batch


def reports(logits, k):
    """What blocks with these router logits ``[L, B, T, E]`` would report, by definition, all layers in the period."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argsort(-logits)[..., :k]
    assigned = (chosen[..., None] == np.arange(logits.shape[-1])).sum((-3, -2))
    z = np.log(np.exp(logits).sum(-1)) ** 2
    found = {"assigned": assigned.astype(float), "probability": p.sum(-2), "squared_normaliser": z.sum(-1)}
    return {"prefix": {"0": {}}, "period": {"0": jax.tree.map(jnp.asarray, found)}}, p, chosen, z


def test_losses_of_a_router_are_their_definitions(x64):
    logits = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    found, p, chosen, z = reports(logits, 2)
    weights = jnp.ones((4, 5)).at[1].set(0).at[2, :3].set(0)
    rows = np.array([True, False, True, True])
    sums = sum_reports(found, weights, None)
    load = divide(load_means(sums, models.ExpertsConfig(6, 2))["expert_load"])
    expected = 0.0
    for layer in range(3):
        f = [(chosen[layer][rows] == e).sum() / (2 * 15) for e in range(6)]
        expected += 6 * sum(f * p[layer][rows].reshape(15, 6).mean(0)) / 3
    assert float(divide(balance_term(sums, load, 0.5))) == pytest.approx(0.5 * float(expected), rel=1e-12)
    assert float(divide(normaliser_term(sums, 0.1))) == pytest.approx(0.1 * float(z[:, rows].mean()), rel=1e-12)
    assert float(divide(peak_load(sums, load))) == pytest.approx(6 * float(load.max(-1).mean()), rel=1e-12)


def test_balance_is_one_where_experts_share_alike_and_their_number_where_one_takes_all(x64):
    for logits, expected in ((np.zeros((1, 2, 6, 6)), None), (np.full((1, 2, 6, 6), -50.0), 6.0)):
        if expected is None:
            for t in range(6):
                logits[:, :, t, t] = 40.0
        else:
            logits[..., 2] = 50.0
        found, *_ = reports(logits, 1)
        sums = sum_reports(found, jnp.ones((2, 6)), None)
        load = divide(load_means(sums, models.ExpertsConfig(6, 1))["expert_load"])
        assert float(divide(balance_term(sums, load, 1.0))) == pytest.approx(expected or 1.0, rel=1e-9)


def test_pads_do_not_count(x64):
    found, *_ = reports(np.zeros((1, 2, 4, 3)), 1)
    segments = jnp.asarray([[1, 1, 2, 0], [0, 0, 0, 1]])
    assert sum_reports(found, jnp.ones((2, 4)), segments).tokens == 4


def test_terms_stand_beside_the_loss_and_move_the_router():
    module = decoder(num_layers=1, experts=models.ExpertsConfig(4, 2, 8), dropout=0.0)
    params, batch, key = params_of(module), text_batch(), jax.random.key(0)
    assert not isinstance(objectives.next_token(module, router_z=0.1), objectives.Objective)
    objective = objectives.next_token(module, balance=0.01, router_z=0.001)

    @jax.jit
    def run(params):
        statistics = jax.tree.map(divide, objective.prepare(params, {}, batch, key), is_leaf=is_mean)
        terms, metrics = objective(params, {}, batch, key, statistics)
        return divide(terms["balance"]), (terms, metrics)

    (value, (terms, metrics)), grads = jax.value_and_grad(run, has_aux=True)(params)
    assert set(terms) == {"loss", "balance", "router_z"}
    assert 0.009 < value < 0.04
    assert 1 <= divide(metrics["peak_load"]) <= 2
    assert np.linalg.norm(grads["period"]["0"]["experts"]["router"]["kernel"]) > 0
    assert not np.any(grads["period"]["0"]["experts"]["down"]["kernel"])


def is_mean(x):
    return isinstance(x, objectives.Mean)


def test_a_model_without_experts_has_no_balance():
    with pytest.raises(InputError, match="0 is needed for a model without experts"):
        objectives.next_token(decoder(), balance=0.1)
