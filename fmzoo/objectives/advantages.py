"""Advantages as data, before a step: how much better an action was than expected."""

import jax
import jax.numpy as jnp

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Mean, divide

Array = jax.Array


def estimate_advantages(
    rewards: Array,
    values: Array,
    weights: Array,
    *,
    discount: float = 1.0,
    trace: float = 0.95,
    segment_ids: Array | None = None,
) -> tuple[Array, Array]:
    """Generalised advantage estimation: ``A_t = delta_t + g l A_t+1`` with ``delta_t = r_t + g V_t+1 - V_t``.

    Schulman et al. (arXiv 1506.02438, eq. 16). The next step of a token is the next one of its completion: tokens of
    weight 0, such as what a tool wrote, are stepped over, and after the last one the value is 0.

    Args:
      rewards: r, ``[B, T]``.
      values: V before the token is drawn, ``[B, T]``.
      weights: ``[B, T]``, not 0 on the tokens that the policy drew.
      discount: g.
      trace: l.
      segment_ids: ``int32[B, T]`` of packed rows.

    Returns:
      Advantages and returns ``A + V``, ``[B, T]``, both 0 where the weight is.
    """
    segment_ids = jnp.zeros(rewards.shape, jnp.int32) if segment_ids is None else segment_ids

    def back(after: tuple[Array, Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        reward, value, counted, segment = now
        value_after, advantage_after = (jnp.where(segment == after[2], x, 0) for x in after[:2])
        delta = reward + discount * value_after - value
        advantage = delta + discount * trace * advantage_after
        new = (value, advantage, segment)
        kept = tuple(jnp.where(counted, a, b) for a, b in zip(new, after, strict=True))
        return kept, jnp.where(counted, advantage, 0)

    counted = weights != 0
    steps = tuple(jnp.moveaxis(x, -1, 0) for x in (rewards, values, counted, segment_ids))
    nothing = jnp.zeros_like(values[:, 0])
    start = (nothing, nothing, jnp.full_like(segment_ids[:, 0], -1))
    advantages = jnp.moveaxis(jax.lax.scan(back, start, steps, reverse=True)[1], 0, -1)
    return advantages, jnp.where(counted, advantages + values, 0)


def whiten(
    values: Array, weights: Array, *, shift_mean: bool = True, correction: int = 0, epsilon: float = 1e-8
) -> Array:
    """``(x - mean) / sqrt(variance + epsilon)`` over all that counts, the mean added again unless it is shifted.

    Args:
      values: x, ``[...]``.
      weights: ``[...]``, not 0 where a value counts.
      shift_mean: leave the mean at 0; rewards are whitened without.
      correction: 0 divides the variance by n, as openai/lm-human-preferences; 1 by ``n - 1``, as TRL's PPO did.
      epsilon: added to the variance.

    Returns:
      ``[...]``, 0 where nothing counts.
    """
    counted = weights != 0
    x, count = jnp.where(counted, values, 0), jnp.sum(counted, dtype=values.dtype)
    mean = divide(Mean(jnp.sum(x), count))
    variance = divide(Mean(jnp.sum(jnp.where(counted, (x - mean) ** 2, 0)), jnp.maximum(count - correction, 0)))
    white = (x - mean) * jax.lax.rsqrt(variance + epsilon)
    return jnp.where(counted, white if shift_mean else white + mean, 0)


def leave_one_out(rewards: Array, weights: Array | None = None) -> Array:
    """``R_i - mean of the other R_j`` in each group of samples of one prompt (RLOO, arXiv 2402.14740, section 3.3).

    Args:
      rewards: ``[..., G]``.
      weights: ``[..., G]``, 0 for a sample that does not count, such as one whose reward failed; None counts all.

    Returns:
      ``[..., G]``; 0 for what does not count, and for a sample that is alone.

    Raises:
      InputError: G is 1.
    """
    rewards, counted, count = _group(rewards, weights)
    others = jnp.sum(rewards, axis=-1, keepdims=True) - rewards
    baseline = divide(Mean(others, jnp.maximum(count - 1, 0)))
    return jnp.where(counted & (count > 1), rewards - baseline, 0)


def group_advantages(
    rewards: Array, weights: Array | None = None, *, scale: bool = True, correction: int = 0, epsilon: float = 1e-8
) -> Array:
    """``(R_i - mean) / (std + epsilon)`` over the samples of one prompt (GRPO, arXiv 2402.03300, section 4.1.2).

    Dr. GRPO (arXiv 2503.20783, section 3.1) leaves the division out: ``scale=False``.

    Args:
      rewards: ``[..., G]``.
      weights: as in `leave_one_out`.
      scale: divide by the standard deviation.
      correction: 0 divides the variance by n; 1 by ``n - 1``, as TRL does. The paper does not say.
      epsilon: added to the standard deviation; TRL adds 1e-4.

    Returns:
      ``[..., G]``, 0 for what does not count and where all rewards are alike.

    Raises:
      InputError: G is 1.
    """
    rewards, counted, count = _group(rewards, weights)
    mean = divide(Mean(jnp.sum(rewards, axis=-1, keepdims=True), count))
    centred = jnp.where(counted, rewards - mean, 0)
    if not scale:
        return centred
    freedom = jnp.maximum(count - correction, 0)
    deviation = jnp.sqrt(divide(Mean(jnp.sum(centred**2, axis=-1, keepdims=True), freedom)))
    return centred / (deviation + epsilon)


def informative(rewards: Array, weights: Array | None = None) -> Array:
    """Whether the samples of a prompt differ in reward, ``bool[...]`` of ``[..., G]``: if not, nothing is learnt."""
    counted = jnp.ones(rewards.shape, bool) if weights is None else weights != 0
    most = jnp.max(jnp.where(counted, rewards, -jnp.inf), axis=-1)
    return most > jnp.min(jnp.where(counted, rewards, jnp.inf), axis=-1)


def choose_groups(useful: Array, count: int) -> tuple[Array, Array]:
    """The first ``count`` useful prompts of more that were sampled, in a batch of a fixed size.

    DAPO's dynamic sampling (arXiv 2503.14476, section 3.2) keeps sampling until a batch is full of prompts whose
    samples differ. Here the number sampled is fixed, and what is missing is filled with others, to be given weight 0.

    Args:
      useful: ``bool[P]``, of `informative`.
      count: how many prompts a batch has.

    Returns:
      Which prompts ``int32[count]``, and ``bool[count]``, whether each counts.

    Raises:
      InputError: more are wanted than there are.
    """
    if count > len(useful):
        raise InputError(f"{count} prompts are to be chosen of {len(useful)}; at most as many are needed")
    order = jnp.argsort(~useful, stable=True)[:count].astype(jnp.int32)
    return order, useful[order]


def _group(rewards: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """Rewards with 0 for what does not count, what does, and how many do ``[..., 1]``."""
    if rewards.shape[-1] < 2:
        raise InputError(f"a group has {rewards.shape[-1]} sample; at least 2 of each prompt are needed")
    counted = jnp.ones(rewards.shape, bool) if weights is None else weights != 0
    return jnp.where(counted, rewards, 0), counted, jnp.sum(counted, axis=-1, keepdims=True, dtype=rewards.dtype)
