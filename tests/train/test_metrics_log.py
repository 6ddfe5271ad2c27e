"""What reports make of the rows of a run."""

import math

import pytest

from fmzoo import train


@pytest.mark.parametrize(
    ("losses", "mean", "count"),
    [
        (range(100), 97.0, 5),
        ([3.0, "nan"], math.nan, 0),
        (["nan", 3.0], 3.0, 1),
        ([*[0.0] * 98, 4.0, "inf"], 1.0, 4),
        ([], math.nan, 0),
    ],
)
def test_the_closing_mean_is_of_the_finite_among_the_last_twentieth(losses, mean, count):
    found = train.closing_mean([{"loss": loss} for loss in losses], "loss")
    assert found == (pytest.approx(mean, nan_ok=True), count)
