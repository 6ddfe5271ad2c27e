"""How far a policy has gone from its reference, from samples, and the coefficient that holds it there.

The estimators are those of J. Schulman, Approximating KL divergence (2020), joschu.net/blog/kl-approx.html.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fmzoo.errors import InputError

Array = jax.Array
Estimator = Literal["k1", "k2", "k3"]
ESTIMATORS = ("k1", "k2", "k3")


def divergence(log_probs: Array, reference: Array, estimator: Estimator = "k1") -> Array:
    """Estimates of ``KL(policy || reference)`` from tokens that the policy drew; ``log r = reference - log_probs``.

    ``k1 = -log r`` has the right mean, and one token's can be below 0. ``k2 = (log r)^2 / 2`` is biased, and its
    gradient is right. ``k3 = r - 1 - log r`` has the right mean and is never below 0; its gradient is that of the
    divergence the other way round.

    Args:
      log_probs: of the policy, ``[...]``.
      reference: of the reference, ``[...]``.
      estimator: which of them.

    Raises:
      InputError: there is no such estimator.
    """
    if estimator not in ESTIMATORS:
        raise InputError(f"KL estimator is {estimator!r}; one of {', '.join(ESTIMATORS)} is needed")
    log_ratio = reference - log_probs
    if estimator == "k1":
        return -log_ratio
    return log_ratio**2 / 2 if estimator == "k2" else jnp.expm1(log_ratio) - log_ratio


def adapt_coefficient(coefficient: Array, kl: Array, *, target: float, horizon: float, episodes: float) -> Array:
    """``coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon)``.

    Ziegler et al. (arXiv 1909.08593, section 2.2), as openai/lm-human-preferences has it.

    Args:
      coefficient: of the divergence in the reward, shape=().
      kl: of the last batch, in nats an episode, shape=().
      target: the divergence that is wanted.
      horizon: episodes in which a constant error of 20 % would change the coefficient by 20 %.
      episodes: in the last batch.
    """
    return coefficient * (1 + jnp.clip(kl / target - 1, -0.2, 0.2) * episodes / horizon)


@dataclasses.dataclass(frozen=True)
class KlControl:
    """The coefficient of the divergence in the reward, fixed or adapted; `fmzoo.train.carried` keeps it in the state.

    Attributes:
      coefficient: the first one.
      target: nats an episode; None leaves the coefficient as it is.
      horizon: as in `adapt_coefficient`.
    """

    coefficient: float = 0.2
    target: float | None = 6.0
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name in ("coefficient", "horizon"):
            if not 0 <= getattr(self, name) < float("inf") or not self.horizon:
                raise InputError(f"KL {name} is {getattr(self, name)}; a positive number is needed")
        if self.target is not None and not self.target > 0:
            raise InputError(f"KL target is {self.target}; a positive number of nats, or None, is needed")

    def begin(self) -> dict[str, Array]:
        """The carry of a state at step 0."""
        return {"kl_coefficient": jnp.float32(self.coefficient)}

    def advance(self, episodes: int, metric: str = "kl") -> Callable[[Any, dict[str, Array]], dict[str, Array]]:
        """``(carry, metrics) -> carry``.

        Args:
          episodes: in a batch.
          metric: the step's metric that holds nats an episode.
        """

        def advance(carry: dict[str, Array], metrics: dict[str, Array]) -> dict[str, Array]:
            if self.target is None:
                return carry
            found = adapt_coefficient(
                carry["kl_coefficient"], metrics[metric], target=self.target, horizon=self.horizon, episodes=episodes
            )
            return {**carry, "kl_coefficient": found.astype(carry["kl_coefficient"].dtype)}

        return advance
