"""Every distance between generated and real pictures at once, each with an interval."""

from collections.abc import Callable

import numpy as np

from fmzoo.evals.frechet import frechet_distance
from fmzoo.evals.intervals import Interval, bootstrap
from fmzoo.evals.kernel_distance import kernel_distance
from fmzoo.evals.manifolds import density_coverage, precision_recall

DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "frechet": frechet_distance,
    "kid": kernel_distance,
    "precision": lambda real, generated: precision_recall(real, generated).precision,
    "recall": lambda real, generated: precision_recall(real, generated).recall,
    "density": lambda real, generated: density_coverage(real, generated).density,
    "coverage": lambda real, generated: density_coverage(real, generated).coverage,
}


def image_quality(
    real: np.ndarray, generated: np.ndarray, *, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """What is in `DISTANCES`, of features ``[N, D]`` of real and ``[M, D]`` of generated pictures.

    Raises:
      InputError: the shapes do not fit, there are fewer than 12 rows, or a feature is not finite.
    """
    return {
        name: bootstrap(distance, real, generated, resamples=resamples, level=level, seed=seed)
        for name, distance in DISTANCES.items()
    }
