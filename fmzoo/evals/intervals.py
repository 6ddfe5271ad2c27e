"""How sure a figure is: intervals from half samples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fmzoo.errors import InputError


class Interval(NamedTuple):
    """A figure and where it may well be."""

    value: float  # of all rows
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap(
    statistic: Callable[..., float],
    *samples: np.ndarray,
    paired: bool = False,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The statistic of samples, with an interval from random halves of them.

    Distances between sets of features look at pairs of rows and at nearest neighbours, which a resample *with* repeated
    rows falsifies: a row's nearest neighbour would be itself. So each resample is half of the rows without repetition
    (Politis & Romano 1994, subsampling; for means the spread over halves is that of the whole sample, as half is left
    out). Its deviations from its mean are what the interval is made of, so a bias that grows as samples shrink, such as
    the Fréchet distance's, does not move it.

    Args:
      statistic: ``(*samples) -> number``.
      samples: arrays whose first axis is drawn from.
      paired: draw the same rows of all samples.
      resamples: how many halves.
      level: of confidence.
      seed: of the halves.

    Raises:
      InputError: a sample has fewer than four rows, paired ones differ in length, or a number is out of range.
    """
    _check(samples, paired, resamples, level)
    rng = np.random.default_rng(seed)
    found = np.array([statistic(*_halves(rng, samples, paired)) for _ in range(resamples)])
    value, tail = float(statistic(*samples)), (1 - level) / 2
    low, high = np.quantile(found - found.mean(), [tail, 1 - tail])
    return Interval(value, value + float(low), value + float(high))


def _halves(rng: np.random.Generator, samples: tuple[np.ndarray, ...], paired: bool) -> list[np.ndarray]:
    if paired:
        chosen = rng.permutation(len(samples[0]))[: len(samples[0]) // 2]
        return [sample[chosen] for sample in samples]
    return [sample[rng.permutation(len(sample))[: len(sample) // 2]] for sample in samples]


def _check(samples: tuple[np.ndarray, ...], paired: bool, resamples: int, level: float) -> None:
    sizes = [len(sample) for sample in samples]
    if not sizes or min(sizes) < 4:
        raise InputError(f"samples have {sizes} rows; at least 4 of each are needed")
    if paired and len(set(sizes)) > 1:
        raise InputError(f"paired samples have {sizes} rows; as many of each are needed")
    if resamples < 2 or not 0 < level < 1:
        raise InputError(f"resamples are {resamples} at level {level}; at least 2 and a level inside (0, 1) are needed")
