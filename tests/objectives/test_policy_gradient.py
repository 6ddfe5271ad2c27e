"""Policy and value losses beside NumPy loops over tokens, and the objectives' promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.objectives import (
    POLICY_LOSSES,
    PolicyLoss,
    actor_critic,
    beside,
    clipped_value_losses,
    divide,
    kto,
    policy_gradient,
    value_regression,
)
from fmzoo.train import check_objective
from tests.objectives.small_policy import (
    LENGTH,
    POLICY,
    completions,
    drawn,
    numpy_log_probs,
    params,
    split_apart,
    terms_of,
)
from tests.objectives.test_preferences import mean_of_means, unpaired

METHODS = POLICY_LOSSES | {
    "dr_grpo": dataclasses.replace(POLICY_LOSSES["dr_grpo"], length=LENGTH),
    "clipped rloo": dataclasses.replace(POLICY_LOSSES["rloo"], clip=True),
}


def by_hand(name, log_probs, batch):
    """The loss of a method as its paper sums it, token by token."""
    batch = {key: np.asarray(value, np.float64) for key, value in batch.items()}
    rows = []
    for b, row in enumerate(batch["weights"]):
        places = [t for t in range(LENGTH) if row[t]]
        if not places:
            continue
        advantage, old = batch["advantages"][b], batch["old_log_probs"][b]
        high = 1.28 if name == "dapo" else 1.2
        tokens = []
        for t in places:
            ratio = np.exp(log_probs[b, t] - old[t])
            tokens.append(min(ratio * advantage, np.clip(ratio, 0.8, high) * advantage))
            if name == "grpo":
                r = np.exp(batch["reference_log_probs"][b, t] - log_probs[b, t])
                tokens[-1] -= 0.04 * (r - np.log(r) - 1)
        if name == "rloo":
            rows.append([sum(log_probs[b, t] for t in places) * advantage])
        elif name == "clipped rloo":
            ratio = np.exp(sum(log_probs[b, t] - old[t] for t in places))
            rows.append([min(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)])
        else:
            rows.append(tokens)
    if name in ("ppo", "dapo"):
        return -np.mean(sum(rows, []))
    if name == "dr_grpo":
        return -np.mean([sum(tokens) / LENGTH for tokens in rows])
    return -np.mean([np.mean(tokens) for tokens in rows])


def test_each_method_is_its_formula(x64):
    tree, batch = params(0), drawn()
    log_probs, counted = numpy_log_probs(tree, batch), np.asarray(batch["weights"]) != 0
    found = jax.jit(lambda tree: {
        name: policy_gradient(POLICY, loss)(tree, {}, batch, jax.random.key(0)) for name, loss in METHODS.items()
    })(tree)  # fmt: skip
    for name, (terms, metrics) in found.items():
        loss = sum(float(divide(term)) for term in terms.values())
        assert loss == pytest.approx(by_hand(name, log_probs, batch), rel=1e-6), name
        apart = np.where(counted, np.asarray(batch["old_log_probs"]) - np.asarray(batch["reference_log_probs"]), 0)
        assert float(divide(metrics["kl"])) == pytest.approx(apart.sum() / counted.any(axis=1).sum(), rel=1e-6)
        assert (float(divide(metrics["clipped"])) > 0) == METHODS[name].clip, name


def test_advantages_by_token_are_those_of_sequences_spread(x64):
    tree, batch = params(0), drawn()
    objective = policy_gradient(POLICY, POLICY_LOSSES["ppo"])
    spread = batch | {"advantages": jnp.broadcast_to(batch["advantages"][:, None], batch["weights"].shape)}
    assert terms_of(objective, tree, {}, spread) == pytest.approx(terms_of(objective, tree, {}, batch), rel=1e-12)
    sequence = policy_gradient(POLICY, POLICY_LOSSES["rloo"])
    with pytest.raises(InputError, match=r"advantages have shape \(6, 7\); \[B\] or \[B, S\], one a sequence"):
        sequence(tree, {}, spread, jax.random.key(0))


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_packed_completions_are_completions(name, x64):
    tree, batch = params(0), drawn()
    packed = {"advantages": batch["advantages"].reshape(3, 2), "example_id": batch["example_id"][:3]}
    for field, value in batch.items():
        if value.ndim == 2:
            rows = value.reshape(3, 2, -1)
            second = jnp.where(rows[:, 1] > 0, 2, 0) if field == "segment_ids" else rows[:, 1]
            packed[field] = jnp.concatenate([rows[:, 0], second], axis=1)
    objective = policy_gradient(POLICY, METHODS[name])
    assert terms_of(objective, tree, {}, packed) == pytest.approx(terms_of(objective, tree, {}, batch), rel=1e-6)


def test_policy_gradients_keep_the_promises(x64):
    batch = drawn()
    del batch["reference_log_probs"]  # it is computed
    report = check_objective(policy_gradient(POLICY, METHODS["grpo"]), params(0), {"reference": params(1)}, batch)
    assert report, str(report)


def test_a_mean_of_means_over_tokens_is_seen(x64):
    objective = policy_gradient(POLICY, METHODS["dapo"])
    assert split_apart(objective, params(0), {}, drawn()) < 1e-9
    assert split_apart(mean_of_means(objective), params(0), {}, drawn()) > 1e-3


def test_value_losses(x64):
    rng = np.random.default_rng(0)
    values, old, returns = rng.normal(size=(3, 40))
    near = np.minimum(np.maximum(values, old - 0.3), old + 0.3)
    expected = 0.5 * np.maximum((values - returns) ** 2, (near - returns) ** 2)
    np.testing.assert_allclose(clipped_value_losses(values, old, returns, clip=0.3), expected, rtol=1e-12)
    assert np.any(expected != 0.5 * (values - returns) ** 2)
    np.testing.assert_allclose(clipped_value_losses(values, old, returns, clip=None), 0.5 * (values - returns) ** 2)


def test_a_value_head_learns_what_a_value_model_learns(x64):
    tree, batch = params(0), drawn(by_token=True)
    alone = terms_of(value_regression(POLICY, clip=0.1), tree, {}, batch)
    policy = terms_of(policy_gradient(POLICY, PolicyLoss()), tree, {}, batch)
    objective = actor_critic(POLICY, PolicyLoss(), value_coefficient=0.5, value_clip=0.1)
    both = terms_of(objective, tree, {}, batch)
    assert both == pytest.approx(policy | alone | {"value": 0.5 * alone["value"]}, rel=1e-12)
    values = np.asarray(POLICY.apply({"params": tree}, batch["inputs"], None, batch["segment_ids"]))
    losses = clipped_value_losses(values, *(np.asarray(batch[name]) for name in ("values", "returns")), clip=0.1)
    assert alone["value"] == pytest.approx(np.average(losses, weights=np.asarray(batch["weights"])), rel=1e-6)


def test_pretraining_text_beside_completions(x64):
    """PPO-ptx: the terms of both, each with its own weights; a prepared statistic finds its way."""
    tree, batch = params(0), drawn()
    text = completions(9, prefix="pretraining_")
    values = value_regression(POLICY)
    text |= {f"pretraining_{name}": batch[name][::-1] for name in ("values", "returns")}
    both = beside(policy_gradient(POLICY, PolicyLoss()), values)
    found = terms_of(both, tree, {}, batch | text)
    alone = {name.removeprefix("pretraining_"): value for name, value in text.items()}
    expected = {f"pretraining_{name}": value for name, value in terms_of(values, tree, {}, alone).items()}
    assert found == pytest.approx(
        expected | terms_of(policy_gradient(POLICY, PolicyLoss()), tree, {}, batch), rel=1e-12
    )
    mixed, batch = beside(actor_critic(POLICY, PolicyLoss()), kto(POLICY)), drawn(by_token=True)
    text = {f"pretraining_{name}": value for name, value in unpaired().items() if name != "example_id"}
    report = check_objective(mixed, tree, {"reference": params(1)}, batch | text)
    assert report, str(report)
    assert "statistics" in report.passed


def test_settings_out_of_range_are_refused():
    for settings, sentence in (
        ({"ratio": "word"}, "policy ratio is 'word'; one of token, sequence is needed"),
        ({"mean": "constant"}, "policy length is None; the tokens of the longest completion are needed"),
        ({"clip_low": -0.1}, "policy clip_low is -0.1; at least 0 is needed"),
    ):
        with pytest.raises(InputError, match=sentence):
            PolicyLoss(**settings)
