"""The Fréchet distance between two sets of features, each taken for a Gaussian (arXiv 1706.08500, eq. 6)."""

import numpy as np

from fmzoo.errors import InputError, require


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """``|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))`` of the means and covariances of features, in float64.

    It is biased upwards by about the number of features over the number of rows: compare sets of equal sizes only.

    Args:
      real: ``[N, D]``.
      generated: ``[M, D]``.

    Raises:
      InputError: the shapes do not fit, there are fewer than two rows, or a feature is not finite.
    """
    check_features(real, generated)
    return gaussian_distance(*_moments(real), *_moments(generated))


def gaussian_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """The squared 2-Wasserstein distance of two Gaussians (Dowson & Landau 1982), singular covariances included.

    The eigenvalues of ``C1 C2`` are those of the symmetric ``C1^(1/2) C2 C1^(1/2)``, so the trace of the root is the
    sum of their roots, and no root of an unsymmetric matrix is taken.

    Args:
      mean1: ``[D]``.
      cov1: ``[D, D]``, symmetric and positive semidefinite.
      mean2: ``[D]``.
      cov2: ``[D, D]``, likewise.
    """
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0)).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * shared)


def check_features(real: np.ndarray, generated: np.ndarray, least: int = 2) -> None:
    """Refuses features that cannot be compared.

    Raises:
      InputError: they are not ``[N, D]`` and ``[M, D]`` of at least so many rows, or not finite.
    """
    sizes = require("real features", real, "N D")
    sizes |= require("generated features", generated, "M D", {"D": sizes["D"]})
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < least:
            raise InputError(f"{name} features have {len(features)} rows; at least {least} are needed")
        if not np.isfinite(features).all():
            raise InputError(f"{name} features are not all finite; finite numbers are needed")


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features, np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))
