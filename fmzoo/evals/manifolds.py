"""Fidelity and diversity apart: how generated rows lie among the real ones, by balls around each row.

The ball of a row reaches to its k-th nearest other row of its own set. Precision and recall are of Kynkäänniemi et al.
(arXiv 1904.06991, eq. 1 and 2), density and coverage of Naeem et al. (arXiv 2002.09797, eq. 3 and 4), which are less
moved by outliers.
"""

from typing import NamedTuple

import numpy as np

from fmzoo.errors import InputError
from fmzoo.evals.frechet import check_features


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float  # of generated rows in the ball of some real row
    recall: float  # of real rows in the ball of some generated row


class DensityCoverage(NamedTuple):
    """Of one distribution, both are near their highest expectation."""

    density: float  # real balls that a generated row lies in, over k; may exceed 1
    coverage: float  # share of real rows whose ball holds a generated row; 1 - 1 / 2^k expected of equal sizes


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features ``[N, D]`` and ``[M, D]``, in float64.

    Raises:
      InputError: the shapes do not fit, k is below 1 or not below the numbers of rows, or a feature is not finite.
    """
    _check(real, generated, k)
    between = distances(real, generated)
    inside_real = between <= radii(real, k)[:, None]
    inside_generated = between <= radii(generated, k)
    return PrecisionRecall(float(inside_real.any(axis=0).mean()), float(inside_generated.any(axis=1).mean()))


def density_coverage(real: np.ndarray, generated: np.ndarray, k: int = 5) -> DensityCoverage:
    """Density and coverage of features ``[N, D]`` and ``[M, D]``, in float64.

    Raises:
      InputError: as `precision_recall`.
    """
    _check(real, generated, k)
    inside = distances(real, generated) <= radii(real, k)[:, None]
    return DensityCoverage(float(inside.sum() / (k * inside.shape[1])), float(inside.any(axis=1).mean()))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances ``[N, M]`` of rows ``[N, D]`` and ``[M, D]``, exactly 0 between equal rows."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = np.empty((len(a), len(b)))
    block = max(1, 2**22 // max(1, b.size))  # rows whose differences are held at a time
    for at in range(0, len(a), block):
        squares[at : at + block] = ((a[at : at + block, None] - b) ** 2).sum(axis=-1)
    return np.sqrt(squares)


def radii(rows: np.ndarray, k: int) -> np.ndarray:
    """The distance of each row to its k-th nearest other row, ``[N]``."""
    return np.partition(distances(rows, rows), k, axis=1)[:, k]  # its own distance of 0 is the 0-th


def _check(real: np.ndarray, generated: np.ndarray, k: int) -> None:
    check_features(real, generated)
    if not 1 <= k < min(len(real), len(generated)):
        raise InputError(
            f"k is {k} of {len(real)} and {len(generated)} rows; at least 1 and fewer than both are needed"
        )
