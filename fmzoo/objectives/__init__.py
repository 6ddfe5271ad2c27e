"""Losses: first the pure array function, then the objective that feeds it from a batch."""

from fmzoo.objectives.adapted import adapted
from fmzoo.objectives.advantages import (
    choose_groups,
    estimate_advantages,
    group_advantages,
    informative,
    leave_one_out,
    whiten,
)
from fmzoo.objectives.autoencoding import autoencoding, discrimination
from fmzoo.objectives.beside import beside
from fmzoo.objectives.classification import classification
from fmzoo.objectives.contract import Mean, Objective, ObjectiveFn, Terms, divide, example_keys, weighted_mean
from fmzoo.objectives.contrastive import contrastive, contrastive_losses
from fmzoo.objectives.cross_entropy import chunked_cross_entropy, cross_entropy
from fmzoo.objectives.denoising import denoising
from fmzoo.objectives.divergence import KlControl, adapt_coefficient, divergence
from fmzoo.objectives.expert_balance import balance_term, normaliser_term, sum_reports
from fmzoo.objectives.kahneman_tversky import kto, kto_losses, reference_point
from fmzoo.objectives.log_probs import last_tokens, sequence_means, sequence_sums, spread, token_log_probs
from fmzoo.objectives.next_token import next_token
from fmzoo.objectives.policy_gradient import (
    POLICY_LOSSES,
    PolicyLoss,
    clipped_losses,
    policy_gradient,
    reinforce_losses,
)
from fmzoo.objectives.preferences import (
    completion_log_probs,
    dpo_losses,
    hinge_losses,
    ipo_losses,
    odds_ratio_losses,
    preference,
    simpo_losses,
)
from fmzoo.objectives.reward_models import (
    LLAMA2_MARGINS,
    bradley_terry_losses,
    centring_losses,
    last_values,
    paired_scores,
    ranked_scores,
    ranking_losses,
    rating_labels,
    score,
)
from fmzoo.objectives.rewards import (
    combine_safety,
    feedback_labels,
    logit,
    overlong_penalty,
    penalise_unfinished,
    token_rewards,
)
from fmzoo.objectives.value import actor_critic, clipped_value_losses, value_regression
from fmzoo.objectives.variational import variational_bound

__all__ = [
    "LLAMA2_MARGINS",
    "POLICY_LOSSES",
    "KlControl",
    "Mean",
    "Objective",
    "ObjectiveFn",
    "PolicyLoss",
    "Terms",
    "actor_critic",
    "adapt_coefficient",
    "adapted",
    "autoencoding",
    "balance_term",
    "beside",
    "bradley_terry_losses",
    "centring_losses",
    "choose_groups",
    "chunked_cross_entropy",
    "classification",
    "clipped_losses",
    "clipped_value_losses",
    "combine_safety",
    "completion_log_probs",
    "contrastive",
    "contrastive_losses",
    "cross_entropy",
    "denoising",
    "discrimination",
    "divergence",
    "divide",
    "dpo_losses",
    "estimate_advantages",
    "example_keys",
    "feedback_labels",
    "group_advantages",
    "hinge_losses",
    "informative",
    "ipo_losses",
    "kto",
    "kto_losses",
    "last_tokens",
    "last_values",
    "leave_one_out",
    "logit",
    "next_token",
    "normaliser_term",
    "odds_ratio_losses",
    "overlong_penalty",
    "paired_scores",
    "penalise_unfinished",
    "policy_gradient",
    "preference",
    "ranked_scores",
    "ranking_losses",
    "rating_labels",
    "reference_point",
    "reinforce_losses",
    "score",
    "sequence_means",
    "sequence_sums",
    "simpo_losses",
    "spread",
    "sum_reports",
    "token_log_probs",
    "token_rewards",
    "value_regression",
    "variational_bound",
    "weighted_mean",
    "whiten",
]
