"""Losses: first the pure array function, then the objective that feeds it from a batch."""

from fmzoo.objectives.adapted import adapted
from fmzoo.objectives.contract import Mean, Objective, ObjectiveFn, Terms, divide, example_keys, weighted_mean
from fmzoo.objectives.cross_entropy import chunked_cross_entropy, cross_entropy
from fmzoo.objectives.next_token import next_token

__all__ = [
    "Mean",
    "Objective",
    "ObjectiveFn",
    "Terms",
    "adapted",
    "chunked_cross_entropy",
    "cross_entropy",
    "divide",
    "example_keys",
    "next_token",
    "weighted_mean",
]
