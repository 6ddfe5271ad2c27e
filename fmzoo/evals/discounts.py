"""The discounts of Kneser-Ney: estimated from counts of counts, or chosen by the likelihood of held-out text."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one order has seen of each of T tokens: its count, and total and kinds of its context (0 if never seen)."""

    counts: np.ndarray  # int64[T]
    totals: np.ndarray  # float64[T]
    kinds: np.ndarray  # float64[3, T]

    def weight(self, discounts: np.ndarray) -> np.ndarray:
        """The share left to shorter contexts, ``float64[T]``; 1 where this order knows nothing."""
        return np.where(self.totals > 0, discounts @ self.kinds / np.maximum(self.totals, 1), 1.0)

    def own(self, discounts: np.ndarray) -> np.ndarray:
        """The discounted share of the token itself, ``float64[T]``."""
        taken = np.concatenate([[0.0], discounts])[np.minimum(self.counts, 3)]
        return (self.counts - taken) / np.maximum(self.totals, 1)


def estimate_discounts(counts: np.ndarray) -> np.ndarray:
    """``float64[3]`` from how many n-grams have counts of 1 to 4 (Chen and Goodman 1999, eq. 26).

    With ``Y = n1 / (n1 + 2 n2)`` a count of i loses ``i - (i + 1) Y n_{i+1} / n_i``. Where that is undefined or out of
    ``(0, i]`` (tiny or saturated vocabularies), all three are 1/2, 1 and 3/2.
    """
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in (1, 2, 3, 4))
    fallback = np.array([0.5, 1.0, 1.5])
    if not (n1 and n2 and n3):
        return fallback
    y = n1 / (n1 + 2 * n2)
    found = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if ((found > 0) & (found <= [1, 2, 3])).all() else fallback


def probabilities(evidence: list[Evidence], vocab_size: int, discounts: np.ndarray) -> np.ndarray:
    """``float64[order + 1, T]``: of each token by the uniform distribution and then by each order."""
    rows = [np.full(len(evidence[0].counts), 1 / vocab_size)]
    for level, taken in zip(evidence, discounts, strict=True):
        rows.append(level.own(taken) + level.weight(taken) * rows[-1])
    return np.stack(rows)


def maximise_likelihood(
    evidence: list[Evidence], vocab_size: int, discounts: np.ndarray, *, steps: int = 20
) -> np.ndarray:
    """Discounts ``float64[order, 3]`` of the highest likelihood, a count of i losing between 0 and i.

    A probability is linear in the discounts of one order, so the mean outer product of the gradient of its logarithm is
    minus the exact second derivative there. Newton steps with it, halved until they help, need no step size; a discount
    that would leave its range stays at the end of it.
    """
    highest = np.tile([1.0, 2.0, 3.0], len(discounts))
    lowest = 1e-3 * highest  # above 0: something must be left to tokens never seen

    def value(flat: np.ndarray) -> float:
        return float(np.log(probabilities(evidence, vocab_size, flat.reshape(-1, 3))[-1]).mean())

    flat = np.clip(discounts.ravel(), lowest, highest)
    best = value(flat)
    for _ in range(steps):
        step = _newton_step(_log_slopes(evidence, vocab_size, flat.reshape(-1, 3)), flat <= lowest, flat >= highest)
        trials = [np.clip(flat + 0.5**halvings * step, lowest, highest) for halvings in range(6)]
        better = next(((v, t) for t in trials if (v := value(t)) > best + 1e-9), None)
        if better is None:
            break
        best, flat = better
    return flat.reshape(-1, 3)


def _newton_step(slopes: np.ndarray, at_lowest: np.ndarray, at_highest: np.ndarray) -> np.ndarray:
    """The step of those that do not push against the end of their range, ``float64[parameters]``."""
    gradient = slopes.mean(axis=1)
    free = ~((at_lowest & (gradient < 0)) | (at_highest & (gradient > 0)))
    curvature = slopes[free] @ slopes[free].T / slopes.shape[1] + 1e-9 * np.eye(free.sum())
    step = np.zeros_like(gradient)
    step[free] = np.linalg.solve(curvature, gradient[free])
    return step


def _log_slopes(evidence: list[Evidence], vocab_size: int, discounts: np.ndarray) -> np.ndarray:
    """The derivative of each token's log-probability by each discount, ``float64[order * 3, T]``."""
    p = probabilities(evidence, vocab_size, discounts)
    share, slopes = 1 / p[-1], []
    for k in reversed(range(len(evidence))):
        level = evidence[k]
        is_kind = np.minimum(level.counts, 3) == np.array([[1], [2], [3]])
        slopes.append(share * (level.kinds * p[k] - is_kind) / np.maximum(level.totals, 1))
        share = share * level.weight(discounts[k])
    return np.concatenate(slopes[::-1])
