"""Rewards and advantages beside plain NumPy, and the gradients of group methods beside the exact one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.objectives import (
    KlControl,
    choose_groups,
    clipped_losses,
    combine_safety,
    divergence,
    estimate_advantages,
    feedback_labels,
    group_advantages,
    informative,
    leave_one_out,
    logit,
    overlong_penalty,
    penalise_unfinished,
    reinforce_losses,
    token_rewards,
    whiten,
)

RNG = np.random.default_rng(0)
G, TRACE = 0.9, 0.8


def by_hand(rewards, values, places):
    """Advantages of the tokens at ``places``, by the sum that defines them (arXiv 1506.02438, eq. 16)."""
    deltas = []
    for i, t in enumerate(places):
        after = values[places[i + 1]] if i + 1 < len(places) else 0.0
        deltas.append(rewards[t] + G * after - values[t])
    return [sum((G * TRACE) ** k * delta for k, delta in enumerate(deltas[i:])) for i in range(len(places))]


def test_advantages_step_over_pads_tools_and_other_sequences(x64):
    rewards, values = RNG.normal(size=(3, 8)), RNG.normal(size=(3, 8))
    weights = np.asarray([[0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 1, 1, 1, 0]])
    segments = np.asarray([[1, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2, 2, 0]])
    estimate = jax.jit(functools.partial(estimate_advantages, discount=G, trace=TRACE))
    found, returns = estimate(rewards, values, weights, segment_ids=segments)
    expected = np.zeros((3, 8))
    for row, segment in ((0, 1), (1, 1), (2, 1), (2, 2)):
        places = [t for t in range(8) if weights[row, t] and segments[row, t] == segment]
        expected[row, places] = by_hand(rewards[row], values[row], places)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(returns, np.where(weights, expected + values, 0), rtol=1e-12)
    alone, _ = estimate(rewards[:2], values[:2], weights[:2])
    np.testing.assert_allclose(alone, expected[:2], rtol=1e-12)


def test_whitening(x64):
    values, weights = RNG.normal(size=(4, 5)), RNG.integers(0, 2, (4, 5))
    kept = values[weights != 0]
    for correction in (0, 1):
        white = (kept - kept.mean()) / np.sqrt(kept.var(ddof=correction) + 1e-8)
        found = whiten(values, weights, correction=correction)
        np.testing.assert_allclose(found[weights != 0], white, rtol=1e-9)
        assert not np.any(found[weights == 0])
        found = whiten(values, weights, correction=correction, shift_mean=False)
        np.testing.assert_allclose(found[weights != 0], white + kept.mean(), rtol=1e-9)


def test_divergence_estimators(x64):
    policy, reference = RNG.dirichlet(np.ones(5)), RNG.dirichlet(np.ones(5))
    logs = jnp.log(policy), jnp.log(reference)
    exact = np.sum(policy * (np.log(policy) - np.log(reference)))
    for name in ("k1", "k3"):  # both have the right mean over what the policy draws
        assert np.sum(policy * divergence(*logs, name)) == pytest.approx(exact, rel=1e-12)
    np.testing.assert_allclose(divergence(*logs, "k2"), 0.5 * np.log(policy / reference) ** 2, rtol=1e-12)
    assert np.all(divergence(*logs, "k3") >= 0)
    slope = jax.grad(lambda x: jnp.sum(policy * divergence(x, logs[1], "k3")))(logs[0])
    np.testing.assert_allclose(slope, policy - reference, atol=1e-12)  # of the divergence the other way round
    with pytest.raises(InputError, match="KL estimator is 'k4'; one of k1, k2, k3 is needed"):
        divergence(*logs, "k4")


def test_the_coefficient_follows_its_target():
    control = KlControl(coefficient=0.2, target=6.0, horizon=1000)
    advance, carry = control.advance(episodes=64), control.begin()
    for kl, error in ((6.6, 0.1), (60.0, 0.2), (0.0, -0.2)):
        before, carry = carry, advance(carry, {"kl": jnp.float32(kl)})
        expected = before["kl_coefficient"] * (1 + error * 64 / 1000)
        assert carry["kl_coefficient"] == pytest.approx(float(expected), rel=1e-6)
    fixed = KlControl(target=None)
    assert fixed.advance(64)(fixed.begin(), {}) == fixed.begin()
    with pytest.raises(InputError, match="KL target is -1"):
        KlControl(target=-1)


def test_rewards_by_token(x64):
    log_probs, reference = -RNG.uniform(1, 2, (2, 6)), -RNG.uniform(1, 2, (2, 6))
    weights = np.asarray([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 0]])
    scores = np.asarray([2.0, -1.0])
    expected = -0.05 * (log_probs - reference) * weights
    expected[[0, 1], [4, 4]] += scores
    found = token_rewards(jnp.asarray(scores), log_probs, reference, weights, coefficient=0.05)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    segments = np.asarray([[1] * 6, [1, 1, 1, 2, 2, 2]])
    packed = token_rewards(
        jnp.asarray([[2.0, 7.0], [-1.0, 3.0]]), log_probs, reference, weights, coefficient=0.05, segment_ids=segments
    )
    expected[1, [2, 4]] += [-1.0, 4.0]
    np.testing.assert_allclose(packed, expected, rtol=1e-12)


def test_shaping_of_scores(x64):
    scores, finished = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([True, False, True])
    np.testing.assert_array_equal(penalise_unfinished(scores, finished, 1.5), [1, 0.5, 3])
    np.testing.assert_array_equal(penalise_unfinished(scores, finished, 1.0, replace=True), [1, -1, 3])
    lengths = jnp.asarray([0, 80, 90, 100, 130])
    np.testing.assert_allclose(overlong_penalty(lengths, longest=100, buffer=20), [0, 0, -0.5, -1, -1])
    np.testing.assert_allclose(logit(jax.nn.sigmoid(scores)), scores, rtol=1e-12)
    assert np.isfinite(logit(jnp.asarray([0.0, 1.0]))).all()
    helpful, safe = jnp.asarray([0.9, 0.8, 0.7]), jnp.asarray([0.5, 0.14, 0.15])
    np.testing.assert_array_equal(combine_safety(helpful, safe, jnp.asarray([True, False, False])), [0.5, 0.14, 0.7])
    said = jnp.log(jnp.asarray([[0.3, 0.1], [0.02, 0.06], [0.5, 0.45]]))
    np.testing.assert_allclose(feedback_labels(said), [0.75, 0.25, 0.5 / 0.95], rtol=1e-12)
    np.testing.assert_allclose(feedback_labels(said, clamp=(0.4, 0.6)), [0.6, 0.4, 0.5 / 0.95], rtol=1e-12)


REWARDS = np.asarray([[1.0, 0, 0, 1], [2, 2, 2, 2], [3, -1, 0.5, 9]])
WEIGHTS = np.asarray([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])


def test_advantages_of_groups(x64):
    kept = REWARDS[2, :3]
    rloo = leave_one_out(jnp.asarray(REWARDS), WEIGHTS)
    np.testing.assert_allclose(rloo[0], [2 / 3, -2 / 3, -2 / 3, 2 / 3])
    np.testing.assert_allclose(rloo[2], [*(kept - (kept.sum() - kept) / 2), 0])
    for correction, epsilon in ((0, 1e-8), (1, 1e-4)):
        found = group_advantages(jnp.asarray(REWARDS), WEIGHTS, correction=correction, epsilon=epsilon)
        np.testing.assert_allclose(found[2, :3], (kept - kept.mean()) / (kept.std(ddof=correction) + epsilon))
        assert not np.any(found[1])
        assert found[2, 3] == 0
    np.testing.assert_allclose(group_advantages(jnp.asarray(REWARDS), scale=False)[0], [0.5, -0.5, -0.5, 0.5])
    failed = REWARDS.copy()
    failed[2, 3] = np.nan  # a reward that failed, with weight 0
    np.testing.assert_array_equal(leave_one_out(jnp.asarray(failed), WEIGHTS), rloo)
    alone = leave_one_out(jnp.asarray(REWARDS), np.asarray([[1, 0, 0, 0]] * 3))
    assert not np.any(alone)
    for method in (leave_one_out, group_advantages):
        with pytest.raises(InputError, match="a group has 1 sample; at least 2"):
            method(jnp.ones((3, 1)))


def test_a_batch_is_filled_with_prompts_that_teach():
    useful = informative(jnp.asarray(REWARDS), WEIGHTS)
    np.testing.assert_array_equal(useful, [True, False, True])
    np.testing.assert_array_equal(informative(jnp.asarray([[1.0, 1.0, 2.0]]), jnp.asarray([[1, 1, 0]])), [False])
    for count, rows, counts in ((2, [0, 2], [True, True]), (3, [0, 2, 1], [True, True, False])):
        found, there = choose_groups(useful, count)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_array_equal(there, counts)
    with pytest.raises(InputError, match="4 prompts are to be chosen of 3"):
        choose_groups(useful, 4)


def expected_gradients(methods, theta, samples):
    """The mean gradient over all groups of samples of a policy with two actions, each group by its probability."""
    actions = jnp.asarray(list(itertools.product((0, 1), repeat=samples)))

    def loss(theta, advantages_of, losses_of):
        log_probs = jax.nn.log_softmax(theta)[actions]
        advantages = jax.lax.stop_gradient(advantages_of(jnp.asarray([0.3, 1.7])[actions]))
        chance = jax.lax.stop_gradient(jnp.exp(jnp.sum(log_probs, axis=1)))
        return jnp.sum(chance * jnp.mean(losses_of(log_probs, advantages), axis=1))

    run = jax.jit(lambda theta: {name: jax.grad(loss)(theta, *method) for name, method in methods.items()})
    return jax.device_get(run(theta))


def clipped(log_probs, advantages):
    return clipped_losses(log_probs, jax.lax.stop_gradient(log_probs), advantages)


METHODS = {
    "reinforce": (lambda rewards: rewards, reinforce_losses),
    "rloo": (leave_one_out, reinforce_losses),
    "clipped": (leave_one_out, clipped),
    "dr_grpo": (lambda rewards: group_advantages(rewards, scale=False), clipped),
    "grpo": (group_advantages, clipped),
}


def test_group_methods_follow_the_exact_policy_gradient(x64):
    """REINFORCE, RLOO and PPO's first step have the gradient of the expected reward, Dr. GRPO (G - 1)/G of it."""
    theta = jnp.asarray([0.2, -0.4])
    p = np.exp(theta) / np.sum(np.exp(theta))
    exact = -p[0] * p[1] * (0.3 - 1.7) * np.asarray([1, -1])
    for samples in (2, 3):
        found = expected_gradients(METHODS, theta, samples)
        for name in ("reinforce", "rloo", "clipped"):
            np.testing.assert_allclose(found[name], exact, rtol=1e-9)
        np.testing.assert_allclose(found["dr_grpo"] * samples / (samples - 1), exact, rtol=1e-9)
        if samples == 2:  # two that differ have the advantages 1 and -1, whatever their rewards
            np.testing.assert_allclose(found["grpo"], p[0] * p[1] * np.asarray([1, -1]), rtol=1e-6)
