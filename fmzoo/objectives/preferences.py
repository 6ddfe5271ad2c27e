"""Learning from pairs, of which one completion was preferred: losses of log-ratios, and the objectives of a policy."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Batch, Mean, ObjectiveFn, Terms, divide, weighted_mean
from fmzoo.objectives.log_probs import segments_of, sequence_means, sequence_sums, spread, token_log_probs
from fmzoo.objectives.pairs import interleave, part

Array = jax.Array
PairLosses = Callable[[Array, Array], Array]  # (chosen, rejected), both [...], to losses [...]


def dpo_losses(
    chosen: Array, rejected: Array, *, beta: float = 0.1, label_smoothing: float = 0.0, robust: bool = False
) -> Array:
    """``-log sigmoid(beta (chosen - rejected))`` (DPO, arXiv 2305.18290, eq. 7).

    With a share s of labels that may be wrong it is ``(1 - s) l(+) + s l(-)`` (cDPO, the same authors' note), and
    ``((1 - s) l(+) - s l(-)) / (1 - 2 s)``, which is unbiased, if it is robust (arXiv 2403.00409, eq. 12).

    Args:
      chosen: ``log (policy / reference)`` of the preferred completion, summed over its tokens, ``[...]``.
      rejected: the same of the other.
      beta: how much the policy is held to the reference.
      label_smoothing: s.
      robust: the second of the two forms.
    """
    margin = beta * (chosen - rejected)
    s = label_smoothing
    if robust:
        return (-(1 - s) * jax.nn.log_sigmoid(margin) + s * jax.nn.log_sigmoid(-margin)) / (1 - 2 * s)
    return -(1 - s) * jax.nn.log_sigmoid(margin) - (s * jax.nn.log_sigmoid(-margin) if s else 0)


def ipo_losses(chosen: Array, rejected: Array, *, tau: float = 0.1) -> Array:
    """``(chosen - rejected - 1 / (2 tau))^2`` of log-ratios as in `dpo_losses` (IPO, arXiv 2310.12036, eq. 17)."""
    return (chosen - rejected - 1 / (2 * tau)) ** 2


def hinge_losses(chosen: Array, rejected: Array, *, beta: float = 0.1) -> Array:
    """``max(0, 1 - beta (chosen - rejected))`` of log-ratios (SLiC, arXiv 2305.10425, eq. 1, as in 2309.06657)."""
    return jax.nn.relu(1 - beta * (chosen - rejected))


def simpo_losses(chosen: Array, rejected: Array, *, beta: float = 2.0, gamma: float = 1.0) -> Array:
    """``-log sigmoid(beta (chosen - rejected) - gamma)`` of mean log-probabilities (SimPO, arXiv 2405.14734, eq. 6)."""
    return -jax.nn.log_sigmoid(beta * (chosen - rejected) - gamma)


def odds_ratio_losses(chosen: Array, rejected: Array, *, coefficient: float = 0.1) -> Array:
    """``-coefficient * log sigmoid(log odds(chosen) - log odds(rejected))`` (ORPO, arXiv 2403.07691, eq. 6-7).

    The odds are ``p / (1 - p)`` with p the exponential of a mean log-probability; ``log (1 - p)`` is found without
    cancellation at either end.
    """
    return -coefficient * jax.nn.log_sigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(log_probs: Array) -> Array:
    """``log (p / (1 - p))`` of ``log p < 0``; what rounds to p = 1 is taken for the next number below it."""
    log_probs = jnp.minimum(log_probs, -jnp.finfo(log_probs.dtype).eps)
    near_one = log_probs > -jnp.log(2.0)  # each branch is given only what it can differentiate
    small = jnp.log(-jnp.expm1(jnp.where(near_one, log_probs, -1.0)))
    large = jnp.log1p(-jnp.exp(jnp.where(near_one, -1.0, log_probs)))
    return log_probs - jnp.where(near_one, small, large)


def preference(
    module: nn.Module,
    losses: PairLosses,
    *,
    reference: str | None = "reference",
    average: bool = False,
    nll: float = 0.0,
    nll_over: Literal["completion", "all"] = "completion",
    chunk: int | None = None,
) -> ObjectiveFn:
    """A loss of pairs, over the log-probabilities of a policy or their ratios to a reference's.

    Batch fields: ``chosen_inputs, chosen_targets int32[B, T]``, ``chosen_weights float32[B, T]`` (1 on the
    completion), with ``chosen_segment_ids`` and ``chosen_positions int32[B, T]`` if there are pads on the left or
    packed rows; the same of ``rejected_``; ``weights float32[B]`` of the pairs; ``example_id``. Packed rows hold the
    pair s of the row in segment s of both sides, and then ``weights`` are ``[B, S]``. The reference's sums
    ``reference_chosen, reference_rejected`` (of the shape of ``weights``, see `completion_log_probs`) are read if they
    are there and computed if not.

    Args:
      module: a decoder.
      losses: ``(chosen, rejected) -> [...]``, such as `dpo_losses` with its settings bound.
      reference: the frozen tree that log-ratios are taken to; None gives ``losses`` log-probabilities. With adapters
        over ``frozen["base"]`` it can be that base.
      average: divide each sequence's sum by its number of tokens.
      nll: coefficient of a term ``nll``, the negative log-likelihood of what was chosen.
      nll_over: ``completion``, the mean over pairs of each one's mean; or ``all``, the mean over all tokens, prompts
        included.
      chunk: positions of which logits are held at a time; None holds all.

    Returns:
      An objective with the term ``loss``, and ``nll`` if asked for, and the metrics ``accuracy`` (the share of pairs
      whose margin is above 0), ``margin``, ``chosen`` and ``rejected`` (what ``losses`` is given, in nats).
    """
    if nll_over not in ("completion", "all"):
        raise InputError(f"nll_over is {nll_over!r}; completion or all is needed")

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del rng, statistics
        weights, tokens = batch["weights"], interleave(batch, "chosen", "rejected")
        compared, log_probs = _pair_sums(module, params, batch, chunk)
        if reference is not None:
            compared -= _reference(batch, lambda: _pair_sums(module, frozen[reference], batch, chunk)[0])
        if average:
            counts = _reduce(sequence_sums, jnp.ones_like(log_probs), tokens, weights)
            compared = divide(Mean(compared, counts))
        chosen, rejected = compared[:, 0], compared[:, 1]
        terms = {"loss": weighted_mean(losses(chosen, rejected), weights)}
        if nll:
            terms["nll"] = _nll(log_probs[:, 0], part(tokens, 0), weights, nll, nll_over)
        margin = chosen - rejected
        metrics = {"accuracy": (margin > 0).astype(margin.dtype), "margin": margin}
        metrics |= {"chosen": chosen, "rejected": rejected}
        return terms, {name: weighted_mean(value, weights) for name, value in metrics.items()}

    return objective


def completion_log_probs(module: nn.Module, params: Any, batch: Batch, *, chunk: int | None = None) -> Batch:
    """The fields ``reference_chosen`` and ``reference_rejected`` of a batch of pairs, to be kept beside it."""
    sums, _ = _pair_sums(module, params, batch, chunk)
    return {"reference_chosen": sums[:, 0], "reference_rejected": sums[:, 1]}


def _pair_sums(module: nn.Module, params: Any, batch: Batch, chunk: int | None) -> tuple[Array, Array]:
    """Sums over completions ``[B, 2]`` or ``[B, 2, S]``, and of each token ``[B, 2, T]``."""
    tokens = interleave(batch, "chosen", "rejected")
    flat = {name: value.reshape(-1, value.shape[-1]) for name, value in tokens.items()}
    log_probs = token_log_probs(module, params, flat, chunk=chunk).reshape(tokens["inputs"].shape)
    return _reduce(sequence_sums, log_probs, tokens, batch["weights"]), log_probs


def _reduce(reduce: Callable[..., Array], values: Array, tokens: Batch, weights: Array) -> Array:
    return reduce(values, tokens["weights"], tokens.get("segment_ids"), segments_of("weights", weights))


def _reference(batch: Batch, compute: Callable[[], Array]) -> Array:
    names = ("reference_chosen", "reference_rejected")
    if all(name in batch for name in names):
        cached = jnp.stack([batch[name] for name in names], axis=1)
        return jnp.where(batch["weights"][:, None] != 0, cached, 0)
    return jax.lax.stop_gradient(compute())


def _nll(log_probs: Array, tokens: Batch, weights: Array, coefficient: float, over: str) -> Mean:
    segment_ids = tokens.get("segment_ids")
    if over == "all":
        there = jnp.ones_like(log_probs) if segment_ids is None else segment_ids > 0
        return weighted_mean(-coefficient * log_probs, there * spread(weights, log_probs, segment_ids))
    means = _reduce(sequence_means, log_probs, tokens, weights)
    return weighted_mean(-coefficient * means, weights)
