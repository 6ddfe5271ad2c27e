"""Rewards as data, before a step: what a sample is worth, token by token, and how published systems shape it."""

from typing import Any

import jax
import jax.numpy as jnp

from fmzoo.errors import InputError
from fmzoo.objectives.divergence import Estimator, divergence
from fmzoo.objectives.log_probs import last_tokens, spread

Array = jax.Array


def token_rewards(
    scores: Array,
    log_probs: Array,
    reference: Array,
    weights: Array,
    *,
    coefficient: Any,
    estimator: Estimator = "k1",
    segment_ids: Array | None = None,
) -> Array:
    """``-coefficient * KL estimate`` at each token of a completion, and the score at its last.

    Ziegler et al. (arXiv 1909.08593, eq. 2), spread over tokens as openai/lm-human-preferences does.

    Args:
      scores: of whole completions, ``[B]``, or ``[B, S]`` of packed rows.
      log_probs: of the policy that drew them, ``[B, T]``.
      reference: of the reference, ``[B, T]``.
      weights: ``[B, T]``, not 0 on the tokens of completions.
      coefficient: of the divergence, a number or shape=().
      estimator: as in `divergence`.
      segment_ids: ``int32[B, T]`` of packed rows.

    Returns:
      ``[B, T]``, 0 outside of completions.
    """
    counted = weights != 0
    segments = scores.shape[1] if scores.ndim == 2 else None
    ends = last_tokens(counted, segment_ids, segments)
    kept = jnp.where(counted, -coefficient * divergence(log_probs, reference, estimator), 0)
    return kept + jnp.where(ends, spread(scores, kept, segment_ids), 0)


def penalise_unfinished(scores: Array, finished: Array, penalty: float, *, replace: bool = False) -> Array:
    """Scores less a penalty where the completion did not end by itself.

    Args:
      scores: ``[...]``.
      finished: ``bool[...]``: there is an eos among its tokens.
      penalty: above 0. TRL subtracts it (``missing_eos_penalty``).
      replace: put ``-penalty`` in place of the score, as lm-human-preferences does (arXiv 1909.08593, section 3.1.1).
    """
    return jnp.where(finished, scores, jnp.full_like(scores, -penalty) if replace else scores - penalty)


def overlong_penalty(lengths: Array, *, longest: int, buffer: int) -> Array:
    """0 up to ``longest - buffer`` tokens, then falling in a line to -1 at ``longest``, and -1 beyond.

    DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), which is added to the reward; there 20,480 and 4,096.

    Args:
      lengths: tokens of completions, ``[...]``.
      longest: the longest completion.
      buffer: over how many tokens the penalty grows.

    Raises:
      InputError: the buffer is empty or longer than a completion.
    """
    if not 0 < buffer <= longest:
        raise InputError(f"overlong buffer is {buffer}; 1 to the longest completion, {longest} tokens, is needed")
    return jnp.clip((longest - buffer - lengths) / buffer, -1, 0)


def logit(probabilities: Array, *, bound: float = 1e-6) -> Array:
    """``log (p / (1 - p))``, the inverse of the sigmoid, of probabilities held ``bound`` away from 0 and 1.

    Llama 2's rewards are `fmzoo.objectives.whiten` of it (arXiv 2307.09288, section 3.2.3).
    """
    p = jnp.clip(probabilities, bound, 1 - bound)
    return jnp.log(p) - jnp.log1p(-p)


def combine_safety(helpfulness: Array, safety: Array, is_safety: Array, *, threshold: float = 0.15) -> Array:
    """The safety score of a prompt that asks for harm, or of an answer below the threshold; else the helpfulness.

    Llama 2 (arXiv 2307.09288, section 3.2.3): ``R_c = R_s if is_safety(p) or R_s < 0.15 else R_h``.

    Args:
      helpfulness: R_h, a probability, ``[...]``.
      safety: R_s, a probability, ``[...]``.
      is_safety: ``bool[...]``: the prompt is one that may elicit unsafe answers.
      threshold: of the safety score; at 0.15 it finds unsafe answers with precision 0.89 and recall 0.55.
    """
    return jnp.where(is_safety | (safety < threshold), safety, helpfulness)


def feedback_labels(log_probs: Array, *, clamp: tuple[float, float] | None = None) -> Array:
    """The probability that the first of two answers is better, from what a model says of the choices (A) and (B).

    Constitutional AI (arXiv 2212.08073, section 4.1): the two are normalised to sum to 1. After a chain of thought,
    which makes them extreme, they are clamped, there to 0.4 and 0.6.

    Args:
      log_probs: of the choices, ``[..., 2]``.
      clamp: the least and the most label; None clamps nothing.

    Returns:
      ``[...]``, the ``label`` of `bradley_terry_losses`.

    Raises:
      InputError: the bounds are not those of a probability.
    """
    labels = jax.nn.softmax(log_probs, axis=-1)[..., 0]
    if clamp is None:
        return labels
    if not 0 <= clamp[0] <= clamp[1] <= 1:
        raise InputError(f"clamp is {clamp}; two probabilities in order are needed")
    return jnp.clip(labels, *clamp)
