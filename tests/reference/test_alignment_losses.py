"""Losses and gradients of alignment beside TRL's own trainers, which are handed the same table of logits.

A table of logits by row and place stands in for the network, on either side: what is compared is everything behind it,
from log-probabilities to the last division. TRL's trainers are not built, only their loss is called.
"""

import dataclasses
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import objectives
from fmzoo.objectives import POLICY_LOSSES, kto, paired_scores, policy_gradient, preference
from fmzoo.train import gradients

pytestmark = pytest.mark.reference
ROWS, LENGTH, VOCAB, BETA = 4, 6, 7, 0.3
RNG = np.random.default_rng(0)


class Table:
    """A policy that says the logits of its parameters, row by row, whatever it is asked."""

    def apply(self, variables, x, positions=None, segment_ids=None, method="__call__"):
        if method == "features":
            return variables["params"]["logits"].reshape(*x.shape, -1), {}, None
        return variables["params"]["values"].reshape(x.shape) if method == "__call__" else x


TABLE = Table()


def completions(rows=ROWS):
    """Tokens ``[rows, T + 1]``, and their mask: prompts of one or two tokens, completions of uneven lengths."""
    tokens = RNG.integers(0, VOCAB, (rows, LENGTH + 1))
    place, ends = np.arange(LENGTH + 1), RNG.integers(4, LENGTH + 2, (rows, 1))
    there = place < ends
    return tokens, there & (place >= RNG.integers(1, 3, (rows, 1))), there


def fields(tokens, mask, there, prefix=""):
    found = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": mask[:, 1:].astype(np.float32)}
    found |= {"segment_ids": there[:, 1:].astype(np.int32)}
    return {prefix + name: jnp.asarray(value) for name, value in found.items()}


def ours(objective, params, batch, frozen=None):
    """Loss and gradient."""
    batch = batch | {"example_id": jnp.arange(ROWS, dtype=jnp.int32)}
    found = jax.jit(gradients(objective))(params, frozen or {}, batch, jax.random.key(0))
    return float(found.loss), found.grads


def trainer(**settings):
    """What stands in for a trainer: one process, no accumulation, nothing special."""
    import torch

    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, sync_gradients=True,
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x,
    )  # fmt: skip
    plain = {
        "aux_loss_enabled": False, "precompute_ref_logps": True, "label_smoothing": 0.0, "beta": BETA,
        "_total_train_tokens": 0, "_tp_size": 1, "current_gradient_accumulation_steps": 1, "use_weighting": False,
        "ld_alpha": None, "f_divergence_type": "reverse_kl", "loss_weights": [1.0],
    }  # fmt: skip
    return mock.MagicMock(accelerator=accelerator, **{**plain, **settings})


def torch_log_probs(logits, labels):
    """Of each label but the first; 0 where it is -100."""
    import torch

    found = torch.log_softmax(logits, -1).gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
    return found * (labels[:, 1:] != -100)


class TorchTable:
    """The same for a trainer: calls are told apart by their number of rows or by their tokens."""

    def __init__(self, logits, others=None):
        self.logits, self.others = logits, others or {}

    def __call__(self, input_ids, labels, **_):
        import torch

        logits = self.others.get(input_ids.numpy().tobytes(), self.logits)
        zeros = torch.zeros(input_ids.shape[0], input_ids.shape[1] - 1)
        kept = {"entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool()}
        return types.SimpleNamespace(log_probs=torch_log_probs(logits, labels), **kept)


def agree(loss, gradient, found, theirs):
    np.testing.assert_allclose(loss, float(found.detach()), rtol=1e-5)
    found.backward()
    np.testing.assert_allclose(gradient, theirs.grad.numpy().reshape(gradient.shape), rtol=1e-5, atol=1e-8)
    assert np.abs(gradient).max() > 1e-3


PAIRED = {
    "sigmoid": (preference(TABLE, lambda c, r: objectives.dpo_losses(c, r, beta=BETA)), {}),
    "robust": (
        preference(TABLE, lambda c, r: objectives.dpo_losses(c, r, beta=BETA, label_smoothing=0.2, robust=True)),
        {"label_smoothing": 0.2},
    ),
    "ipo": (preference(TABLE, lambda c, r: objectives.ipo_losses(c, r, tau=BETA), average=True), {}),
    "hinge": (preference(TABLE, lambda c, r: objectives.hinge_losses(c, r, beta=BETA)), {}),
}


@pytest.mark.parametrize("name", PAIRED)
def test_pairs(name):
    import torch
    from trl.trainer.dpo_trainer import DPOTrainer

    objective, settings = PAIRED[name]
    sides, logits = (completions(), completions()), RNG.normal(size=(ROWS, 2, LENGTH, VOCAB)).astype(np.float32)
    reference = -RNG.uniform(5, 9, (2, ROWS)).astype(np.float32)
    batch = fields(*sides[0], "chosen_") | fields(*sides[1], "rejected_") | {"weights": jnp.ones(ROWS)}
    batch |= {"reference_chosen": jnp.asarray(reference[0]), "reference_rejected": jnp.asarray(reference[1])}
    loss, grads = ours(objective, {"logits": jnp.asarray(logits)}, batch)

    theirs = torch.tensor(logits.swapaxes(0, 1).reshape(2 * ROWS, LENGTH, VOCAB), requires_grad=True)
    tokens, mask, there = (torch.tensor(np.concatenate(pair)) for pair in zip(*sides, strict=True))
    inputs = {"input_ids": tokens, "attention_mask": there.long(), "completion_mask": mask.long()}
    inputs |= {"ref_chosen_logps": torch.tensor(reference[0]), "ref_rejected_logps": torch.tensor(reference[1])}
    stub = trainer(**{"loss_types": [name], **settings})
    found = DPOTrainer._compute_loss(stub, TorchTable(theirs), inputs, False)
    gradient = np.asarray(grads["logits"]).swapaxes(0, 1)
    agree(loss, gradient, found, theirs)


@pytest.mark.parametrize("name", ["simpo", "cpo_smooth"])
def test_pairs_without_a_reference(name):
    import torch
    from trl.experimental.cpo import CPOTrainer

    chosen, rejected = -RNG.uniform(0.5, 3, (2, 9)).astype(np.float32)
    if name == "simpo":
        stub = types.SimpleNamespace(loss_type="simpo", simpo_gamma=0.7, beta=2.5, label_smoothing=0.0)

        def losses(pair):
            return objectives.simpo_losses(*pair, beta=2.5, gamma=0.7)
    else:  # label smoothing without a reference, of which the paired trainer has no plain form
        stub = types.SimpleNamespace(loss_type="sigmoid", beta=BETA, label_smoothing=0.2)

        def losses(pair):
            return objectives.dpo_losses(*pair, beta=BETA, label_smoothing=0.2)

    stub.alpha, stub.accelerator = 0.0, types.SimpleNamespace(device="cpu")
    value, slope = jax.value_and_grad(lambda pair: jnp.mean(losses(pair)))(jnp.stack([chosen, rejected]))
    theirs = torch.tensor(np.stack([chosen, rejected]), requires_grad=True)
    agree(float(value), np.asarray(slope), CPOTrainer.cpo_loss(stub, *theirs)[0].mean(), theirs)


def test_odds_ratios():
    import torch
    from trl.experimental.orpo import ORPOTrainer

    pair = -np.concatenate([RNG.uniform(1e-3, 3, (2, 9)), RNG.uniform(1e-6, 1e-3, (2, 2))], axis=1).astype(np.float32)
    losses = lambda pair: jnp.mean(objectives.odds_ratio_losses(*pair, coefficient=0.1))  # noqa: E731
    value, slope = jax.value_and_grad(losses)(jnp.asarray(pair))
    stub = types.SimpleNamespace(beta=0.1, accelerator=types.SimpleNamespace(device="cpu"))
    theirs = torch.tensor(pair, requires_grad=True)
    agree(float(value), np.asarray(slope), -ORPOTrainer.odds_ratio_loss(stub, *theirs)[0].mean(), theirs)


def test_kto():
    import torch
    from trl.trainer.kto_trainer import KTOTrainer

    own, wrong = completions(), completions()
    logits, other = RNG.normal(size=(2, ROWS, LENGTH, VOCAB)).astype(np.float32)
    reference = {"completion": -RNG.uniform(5, 9, ROWS), "mismatched": -RNG.uniform(9, 14, ROWS)}
    desirable = np.asarray([1, 0, 1, 1])
    batch = fields(*own) | fields(*wrong, "mismatched_") | {"desirable": jnp.asarray(desirable, jnp.float32)}
    batch |= {f"reference_{name}": jnp.asarray(value, jnp.float32) for name, value in reference.items()}

    class TwoTables(Table):
        def apply(self, variables, x, positions=None, segment_ids=None, method="__call__"):
            if method != "features":
                return x
            mine = jnp.all(x == batch["inputs"])
            return jnp.where(mine, variables["params"]["logits"], jnp.asarray(other)), {}, None

    objective = kto(TwoTables(), beta=BETA, desirable_weight=1.2, undesirable_weight=0.9)
    loss, grads = ours(objective, {"logits": jnp.asarray(logits)}, batch)

    theirs = torch.tensor(logits, requires_grad=True)
    (tokens, mask, there), (kl_tokens, kl_mask, kl_there) = ([torch.tensor(x) for x in side] for side in (own, wrong))
    inputs = {"input_ids": tokens, "attention_mask": there.long(), "completion_mask": mask.long()}
    inputs |= {"KL_input_ids": kl_tokens, "KL_attention_mask": kl_there.long(), "KL_completion_mask": kl_mask.long()}
    inputs |= {
        "label": torch.tensor(desirable),
        "ref_logps": torch.tensor(reference["completion"], dtype=torch.float32),
    }
    inputs |= {"ref_KL_logps": torch.tensor(reference["mismatched"], dtype=torch.float32)}
    model = TorchTable(theirs, {kl_tokens.numpy().tobytes(): torch.tensor(other)})
    stub = trainer(loss_type="kto", calculate_KL=True, desirable_weight=1.2, undesirable_weight=0.9)
    stub._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(stub, model, batch)
    agree(loss, np.asarray(grads["logits"]), KTOTrainer._compute_loss(stub, model, inputs, False), theirs)


def test_reward_models():
    import torch
    from trl import RewardTrainer

    sides, margin = (completions(), completions()), RNG.uniform(0, 1, ROWS).astype(np.float32)
    values = RNG.normal(size=(ROWS, 2, LENGTH)).astype(np.float32)
    batch = {"weights": jnp.ones(ROWS), "margin": jnp.asarray(margin)}
    scores = []
    for i, (prefix, (tokens, _, there)) in enumerate(zip(("chosen_", "rejected_"), sides, strict=True)):
        batch |= {
            f"{prefix}inputs": jnp.asarray(tokens[:, 1:]),
            f"{prefix}segment_ids": jnp.asarray(there[:, 1:], jnp.int32),
        }
        scores.append(values[np.arange(ROWS), i, there[:, 1:].sum(axis=1) - 1])
    loss, grads = ours(paired_scores(TABLE, centring=0.01), {"values": jnp.asarray(values)}, batch)

    theirs = torch.tensor(np.concatenate(scores)[:, None], requires_grad=True)
    inputs = {"margin": torch.tensor(margin), "attention_mask": torch.ones(2 * ROWS, LENGTH)}
    stub = trainer(args=types.SimpleNamespace(center_rewards_coefficient=0.01))
    found = RewardTrainer.compute_loss(stub, lambda **_: types.SimpleNamespace(logits=theirs), inputs)
    gradient = np.asarray(grads["values"]).sum(axis=2).T.reshape(2 * ROWS, 1)  # all of it lies at the last token
    agree(loss, gradient, found, theirs)


POLICIES = {  # ours, and TRL's settings
    "grpo": (POLICY_LOSSES["grpo"], {"loss_type": "grpo", "beta": 0.04}),
    "dr_grpo": (dataclasses.replace(POLICY_LOSSES["dr_grpo"], length=20), {"loss_type": "dr_grpo"}),
    "dapo": (POLICY_LOSSES["dapo"], {"loss_type": "dapo", "epsilon_high": 0.28}),
    "rloo": (dataclasses.replace(POLICY_LOSSES["rloo"], clip=True), {}),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policy_gradients(name):
    import torch
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    loss_of, settings = POLICIES[name]
    tokens, mask, there = completions()
    logits = RNG.normal(size=(ROWS, LENGTH, VOCAB)).astype(np.float32)
    labels = torch.tensor(np.where(mask, tokens, -100))
    theirs = torch.tensor(logits, requires_grad=True)
    now = torch_log_probs(theirs, labels)
    old, reference = (now.detach().numpy() + 0.2 * RNG.normal(size=(2, ROWS, LENGTH))).astype(np.float32)
    advantages = RNG.normal(size=ROWS).astype(np.float32)
    batch = fields(tokens, mask, there) | {"advantages": jnp.asarray(advantages)}
    batch |= {"old_log_probs": jnp.asarray(old), "reference_log_probs": jnp.asarray(reference)}
    loss, grads = ours(policy_gradient(TABLE, loss_of), {"logits": jnp.asarray(logits)}, batch)

    completion = torch.tensor(mask[:, 1:].astype(np.float32))
    inputs = {"prompt_ids": torch.tensor(tokens[:, :1]), "prompt_mask": torch.ones(ROWS, 1)}
    inputs |= {"completion_ids": torch.tensor(tokens[:, 1:]), "completion_mask": completion}
    inputs |= {"advantages": torch.tensor(advantages), "num_items_in_batch": completion.sum()}
    inputs |= {"old_per_token_logps": torch.tensor(old), "ref_per_token_logps": torch.tensor(reference)}
    inputs["old_logps"] = (torch.tensor(old) * completion).sum(1)
    plain = {
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token",
        "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "use_vllm": False, "max_completion_length": 20,
        "_entropy_bonus_enabled": False,
    }  # fmt: skip
    args = types.SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    stub = trainer(args=args, **{**plain, **settings})
    stub._get_per_token_logps_and_entropies = lambda *_, **__: (now, torch.zeros(ROWS, LENGTH), None)
    method = (RLOOTrainer if name == "rloo" else GRPOTrainer)._compute_loss
    agree(loss, np.asarray(grads["logits"]), method(stub, None, inputs), theirs)


def test_the_penalty_of_long_completions():
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(100, 20)(completion_ids=[[0] * n for n in (3, 80, 81, 97, 100, 120)])
    ours = objectives.overlong_penalty(jnp.asarray([3, 80, 81, 97, 100, 120]), longest=100, buffer=20)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_advantages_of_groups():
    """As `GRPOTrainer` and `RLOOTrainer` compute them, within their longest methods."""
    import torch
    from trl.trainer.grpo_trainer import nanstd

    rewards = RNG.normal(size=(3, 4)).astype(np.float32)
    table = torch.tensor(rewards)
    scaled = (table - table.mean(1, keepdim=True)) / (nanstd(table, dim=1)[:, None] + 1e-4)
    found = objectives.group_advantages(jnp.asarray(rewards), correction=1, epsilon=1e-4)
    np.testing.assert_allclose(found, scaled.numpy(), rtol=1e-5)
    others = table - (table.sum(1, keepdim=True) - table) / 3
    np.testing.assert_allclose(objectives.leave_one_out(jnp.asarray(rewards)), others.numpy(), rtol=1e-5)
