"""Losses: first the pure array function, then the objective that feeds it from a batch."""

from fmzoo.objectives.adapted import adapted
from fmzoo.objectives.autoencoding import autoencoding, discrimination
from fmzoo.objectives.classification import classification
from fmzoo.objectives.contract import Mean, Objective, ObjectiveFn, Terms, divide, example_keys, weighted_mean
from fmzoo.objectives.contrastive import contrastive, contrastive_losses
from fmzoo.objectives.cross_entropy import chunked_cross_entropy, cross_entropy
from fmzoo.objectives.denoising import denoising
from fmzoo.objectives.expert_balance import balance_term, normaliser_term, sum_reports
from fmzoo.objectives.next_token import next_token
from fmzoo.objectives.variational import variational_bound

__all__ = [
    "Mean",
    "Objective",
    "ObjectiveFn",
    "Terms",
    "adapted",
    "autoencoding",
    "balance_term",
    "chunked_cross_entropy",
    "classification",
    "contrastive",
    "contrastive_losses",
    "cross_entropy",
    "denoising",
    "discrimination",
    "divide",
    "example_keys",
    "next_token",
    "normaliser_term",
    "sum_reports",
    "variational_bound",
    "weighted_mean",
]
