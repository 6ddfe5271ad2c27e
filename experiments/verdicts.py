"""Intervals, verdicts and tables that experiments share; not an experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from fmzoo import evals

HOLDS, OPEN, FAILS = "holds", "is not decided", "FAILS"


def interval(values: Sequence[float]) -> evals.Interval:
    """The mean over seeds, and Student's 95 % interval of it: with three seeds 2.5 deviations to either side."""
    values = np.asarray(values, np.float64)
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return evals.Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def is_positive(differences: Sequence[float]) -> str:
    """Whether a difference, a value a seed, is above 0: it holds, it fails, or 0 lies within its interval."""
    return above_zero(interval(differences))


def above_zero(found: evals.Interval) -> str:
    """Whether a figure is above 0, by its interval."""
    return HOLDS if found.low > 0 else FAILS if found.high < 0 else OPEN


def whole(verdicts: Mapping[str, str]) -> str:
    """What verdicts of the parts say of a claim."""
    parts = set(verdicts.values())
    return HOLDS if parts == {HOLDS} else FAILS if HOLDS not in parts else "holds in part"


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
