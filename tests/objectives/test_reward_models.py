"""Losses of scores, the reward model that gives them, and the objectives' promises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models, parallel
from fmzoo.objectives import (
    bradley_terry_losses,
    centring_losses,
    last_values,
    paired_scores,
    ranked_scores,
    ranking_losses,
    rating_labels,
)
from fmzoo.train import check_objective
from tests.objectives.small_policy import POLICY, completions, ids, pairs, params, split_apart, terms_of
from tests.objectives.test_preferences import mean_of_means, sigmoid
from tests.train.probes import params_of

RNG = np.random.default_rng(0)
CHOSEN, REJECTED = RNG.normal(size=9), RNG.normal(size=9)


def test_pairs_with_margins_and_soft_labels(x64):
    margin, label = RNG.uniform(0, 3, 9), RNG.uniform(0, 1, 9)
    np.testing.assert_allclose(bradley_terry_losses(CHOSEN, REJECTED), -np.log(sigmoid(CHOSEN - REJECTED)), rtol=1e-12)
    led = CHOSEN - REJECTED - margin
    found = bradley_terry_losses(CHOSEN, REJECTED, margin=margin)
    np.testing.assert_allclose(found, -np.log(sigmoid(led)), rtol=1e-12)
    found = bradley_terry_losses(CHOSEN, REJECTED, margin=margin, label=label)
    np.testing.assert_allclose(found, -label * np.log(sigmoid(led)) - (1 - label) * np.log(1 - sigmoid(led)), rtol=1e-9)
    np.testing.assert_allclose(centring_losses(CHOSEN, REJECTED), (CHOSEN + REJECTED) ** 2)
    np.testing.assert_allclose(rating_labels(jnp.asarray(4.0), jnp.asarray(1.0), scale=2.0), sigmoid(1.5))


def test_rankings_divide_by_the_pairs_of_a_prompt(x64):
    scores = RNG.normal(size=(3, 5))
    ratings = np.asarray([[5, 1, 3, 2, 4], [2, 2, 1, 0, 0], [1, 1, 1, 1, 1]], float)
    weights = np.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], float)
    expected = []
    for row in range(3):
        there = [i for i in range(5) if weights[row, i]]
        better = [(i, j) for i, j in itertools.permutations(there, 2) if ratings[row, i] > ratings[row, j]]
        losses = [-np.log(sigmoid(scores[row, i] - scores[row, j])) for i, j in better]
        expected.append(sum(losses) / max(len(better), 1))
    assert len(list(itertools.combinations(range(5), 2))) == 10  # C(5, 2), what the first prompt is divided by
    np.testing.assert_allclose(ranking_losses(jnp.asarray(scores), ratings, weights), expected, rtol=1e-12)


def test_the_last_token_is_found_among_pads_and_segments():
    values = jnp.arange(12.0).reshape(2, 6)
    segments = jnp.asarray([[0, 1, 1, 2, 2, 0], [1, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(last_values(values, jnp.minimum(segments, 1)), [4, 8])
    np.testing.assert_array_equal(last_values(values, segments, 3), [[2, 4, 0], [8, 0, 0]])


def whole_pairs():
    batch = {name: value for name, value in pairs().items() if not name.endswith(("targets", "chosen_weights"))}
    batch = {name: value for name, value in batch.items() if not name.endswith("rejected_weights")}
    return batch | {"margin": jnp.linspace(0, 1, 6), "label": jnp.linspace(0.6, 1, 6)}


def test_the_objective_of_pairs(x64):
    tree, batch = params(3), whole_pairs()
    found = terms_of(paired_scores(POLICY, centring=0.01), tree, {}, batch)
    scores = []
    for side in ("chosen", "rejected"):
        segments = np.asarray(batch[f"{side}_segment_ids"])
        values = POLICY.apply({"params": tree}, batch[f"{side}_inputs"], None, segments)
        scores.append(np.asarray(values)[np.arange(6), segments.sum(axis=1) - 1])
    margin, label, weights = (np.asarray(batch[name]) for name in ("margin", "label", "weights"))
    losses = bradley_terry_losses(*scores, margin=margin, label=label)
    assert found["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-6)
    assert found["centring"] == pytest.approx(
        0.01 * np.average((scores[0] + scores[1]) ** 2, weights=weights), rel=1e-6
    )
    assert found["accuracy"] == pytest.approx(np.average(scores[0] > scores[1], weights=weights))


def rankings():
    fields = completions(7, rows=18)
    batch = {name: fields[name].reshape(6, 3, -1) for name in ("inputs", "segment_ids")}
    weights = jnp.ones((6, 3)).at[1, 2].set(0).at[4].set(0)
    ratings = jnp.asarray([[3, 1, 2], [1, 2, 9], [1, 1, 2], [2, 2, 2], [1, 2, 3], [3, 2, 1]], jnp.float32)
    return batch | {"ratings": ratings, "weights": weights} | ids()


def test_scores_of_pairs_keep_the_promises(x64):
    objective, batch = paired_scores(POLICY, centring=0.1), whole_pairs()
    report = check_objective(objective, params(3), {}, batch)
    assert report, str(report)
    assert split_apart(mean_of_means(objective), params(3), {}, batch) > 1e-3


def test_rankings_may_be_split_between_prompts(x64):
    objective, batch = ranked_scores(POLICY), rankings()
    assert split_apart(objective, params(3), {}, batch) < 1e-9
    spoilt = batch | {"ratings": batch["ratings"].at[4].set(jnp.nan)}  # of a prompt that does not count
    assert terms_of(objective, params(3), {}, spoilt) == terms_of(objective, params(3), {}, batch)


def test_a_reward_model_over_a_decoder(x64):
    config = models.DecoderConfig(
        vocab_size=12, d_model=8, num_layers=2, context_length=8, dtype="float64", tied_head=False,
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4), mlp=models.MlpConfig(d_ff=8),
    )  # fmt: skip
    decoder = models.Decoder(config)
    base = params_of(decoder)
    module = models.RewardModel(config)
    tree = models.init_reward_model(jax.random.key(1), config, base)
    assert "head" in base
    assert "head" not in tree["decoder"]
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(
        jnp.shape, jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    )
    tokens = jnp.asarray([[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]])
    segments = jnp.asarray([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    hidden = decoder.apply({"params": base}, tokens, segment_ids=segments, method="features")[0]
    values = module.apply({"params": tree}, tokens, segment_ids=segments)
    np.testing.assert_allclose(values, (hidden @ tree["head"]["kernel"])[..., 0], rtol=1e-12)
    assert parallel.specs(models.REWARD_RULES, tree, parallel.mesh("fsdp=2,tensor=2", jax.devices()[:4]))

    kept = models.RewardModel(config, language_head=True)
    tree = models.init_reward_model(jax.random.key(1), config, base, language_head=True)
    logits = kept.apply({"params": tree}, hidden, method="unembed")
    np.testing.assert_allclose(logits, decoder.apply({"params": base}, hidden, method="unembed"), rtol=1e-12)
