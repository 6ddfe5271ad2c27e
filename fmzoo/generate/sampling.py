"""From logits to a token: pure processors on ``[B, V]``, and a draw with a key for each row.

Processors run in one order: repetition penalty, temperature, top-k, top-p, min-p, each on what the one before left.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmzoo.errors import InputError

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a token is drawn.

    Attributes:
      temperature: divides the logits; 0 takes the most probable token.
      top_k: draws from the k most probable tokens only; None is all.
      top_p: draws from the fewest most probable tokens that hold this probability; None is all.
      min_p: draws from tokens at least this times as probable as the most probable one; None is all.
      repetition_penalty: makes tokens of the prompt and of the answer so far less likely; 1 leaves them.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values out of range."""

        def check(name: str, true: bool, accepted: str) -> None:
            if not true:
                raise InputError(f"{name} is {getattr(self, name)!r}; {accepted} is needed")

        check("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or a number above it")
        check("top_k", self.top_k is None or self.top_k == int(self.top_k) >= 1, "a whole number from 1")
        check("top_p", self.top_p is None or 0 < self.top_p <= 1, "a number above 0 and at most 1")
        check("min_p", self.min_p is None or 0 <= self.min_p <= 1, "a number from 0 to 1")
        check("repetition_penalty", 0 < self.repetition_penalty < math.inf, "a number above 0")

    def active(self) -> dict[str, float]:
        """The fields that change something: keyword arguments of `process`. Greedy is told by no temperature.

        Passed to a jitted function as they are, another temperature or k compiles nothing anew.
        """
        used = {}
        if self.repetition_penalty != 1:
            used["repetition_penalty"] = self.repetition_penalty
        if self.temperature:
            used["temperature"] = self.temperature
            limits = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
            idle = {"top_p": 1, "min_p": 0}
            used |= {n: v for n, v in limits.items() if v is not None and v != idle.get(n)}
        return used


def penalise_repetition(logits: Array, seen: Array, penalty: Array | float) -> Array:
    """Positive logits of seen tokens divided by the penalty, others multiplied (CTRL, arXiv 1909.05858, section 4.1).

    Args:
      logits: ``[B, V]``.
      seen: ``bool[B, V]``, the tokens of prompt and answer.
      penalty: above 1 makes them less likely.
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Array, k: Array | int) -> Array:
    """``[B, V]`` with -inf below the k-th largest of each row; ties with the k-th stay."""
    return _keep_largest(logits, logits, lambda kept: jnp.sum(kept, axis=-1) >= k)


def keep_top_p(logits: Array, p: Array | float) -> Array:
    """``[B, V]`` with -inf outside the smallest set of most probable tokens that holds p (arXiv 1904.09751, eq. 2).

    Ties with the least probable one of the set stay.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    return _keep_largest(logits, probs, lambda kept: jnp.sum(jnp.where(kept, probs, 0), axis=-1) >= p)


def keep_min_p(logits: Array, p: Array | float) -> Array:
    """``[B, V]`` with -inf where a token is less than p times as probable as the first (arXiv 2407.01082)."""
    least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(jnp.asarray(p, logits.dtype))
    return jnp.where(logits >= least, logits, -jnp.inf)


def _keep_largest(logits: Array, values: Array, enough: Callable[[Array], Array]) -> Array:
    """Keeps the logits whose value is at least t, the largest t for which ``enough(values >= t)`` holds in a row.

    A float's bits, sign turned, count up as the float does, so t is found exactly bit by bit, from the highest,
    without a sort.
    """
    bits = jnp.finfo(values.dtype).bits
    whole = jnp.uint32 if bits == 32 else jnp.uint64
    raw = jax.lax.bitcast_convert_type(values, whole)
    sign = jnp.asarray(1 << (bits - 1), whole)
    order = jnp.where(raw & sign, ~raw, raw | sign)

    def lower_bit(i: Array, threshold: Array) -> Array:
        trial = threshold | (sign >> i.astype(whole))
        return jnp.where(enough(order >= trial[:, None]), trial, threshold)

    threshold = jax.lax.fori_loop(0, bits, lower_bit, jnp.zeros(values.shape[0], whole))
    return jnp.where(order >= threshold[:, None], logits, -jnp.inf)


def process(
    logits: Array,
    seen: Array | None = None,
    *,
    repetition_penalty: Array | float | None = None,
    temperature: Array | float | None = None,
    top_k: Array | int | None = None,
    top_p: Array | float | None = None,
    min_p: Array | float | None = None,
) -> Array:
    """All processors that are given, in order; ``logits [B, V]``, ``seen bool[B, V]`` needed by the penalty."""
    if repetition_penalty is not None:
        logits = penalise_repetition(logits, seen, repetition_penalty)
    if temperature is not None:
        logits = logits / temperature
    for value, keep in ((top_k, keep_top_k), (top_p, keep_top_p), (min_p, keep_min_p)):
        if value is not None:
            logits = keep(logits, value)
    return logits


def draw(
    logits: Array, keys: Array, seen: Array | None = None, active: dict[str, Array | float] | None = None
) -> tuple[Array, Array, Array]:
    """One token a row.

    Args:
      logits: ``[B, V]`` of the model.
      keys: a key for each row, ``[B]``, used up here.
      seen: ``bool[B, V]``, needed by the repetition penalty.
      active: of `SamplingConfig.active`; without a temperature the most probable token is taken, the first of equals.

    Returns:
      ``tokens int32[B]``; ``log_probs [B]`` under the distribution that they were drawn from, all processors applied
      (0 where the most probable one was taken, nothing being left to chance); ``model_log_probs [B]`` under the softmax
      of ``logits`` as they came.
    """
    active = active or {}
    processed = process(logits, seen, **active)
    if "temperature" in active:
        tokens = jax.vmap(jax.random.categorical)(keys, processed).astype(jnp.int32)
        log_probs = log_prob(processed, tokens)
    else:
        tokens = most_probable(processed)
        log_probs = jnp.zeros(tokens.shape, logits.dtype)
    return tokens, log_probs, log_prob(logits, tokens)


def most_probable(logits: Array) -> Array:
    """The first of the largest, ``int32[B]`` for ``[B, V]``, by two plain reductions: XLA does `argmax` one by one."""
    places = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(logits == largest, places, places[-1]), axis=-1)


def log_prob(logits: Array, tokens: Array) -> Array:
    """``ln softmax(logits)[token]``, ``[...]`` for ``logits [..., V]`` and ``tokens int32[...]``."""
    picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)
