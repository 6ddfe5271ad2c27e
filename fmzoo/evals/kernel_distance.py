"""The kernel distance (KID): an unbiased squared maximum mean discrepancy (arXiv 1801.01401, section 4)."""

import numpy as np

from fmzoo.evals.frechet import check_features


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    degree: int = 3,
    gamma: float | None = None,
    constant: float = 1.0,
) -> float:
    """The unbiased estimate of ``E k(x, x') + E k(y, y') - 2 E k(x, y)``, in float64.

    The kernel is ``(gamma x . y + constant)^degree``. The estimate is the U-statistic over all pairs of different rows
    (Gretton et al. 2012, eq. 3): its mean is right for sets of any size, and below 0 half the time where both sets have
    one distribution. The average over random subsets that is also called KID has the same mean and more noise.

    Args:
      real: ``[N, D]``.
      generated: ``[M, D]``.
      degree: of the polynomial.
      gamma: None is ``1 / D``.
      constant: added to the scaled product.

    Raises:
      InputError: the shapes do not fit, there are fewer than two rows, or a feature is not finite.
    """
    check_features(real, generated)
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    gamma = 1 / real.shape[1] if gamma is None else gamma

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (gamma * (a @ b.T) + constant) ** degree

    return float(_off_diagonal(kernel(real, real)) + _off_diagonal(kernel(generated, generated))
                 - 2 * kernel(real, generated).mean())  # fmt: skip


def _off_diagonal(square: np.ndarray) -> float:
    """The mean of what is not on the diagonal."""
    n = len(square)
    return (square.sum() - np.trace(square)) / (n * (n - 1))
