"""How good a model is: of text, perplexity and an n-gram baseline; of pictures, distances between features."""

from fmzoo.evals.audit import CHECKS, Check, audit
from fmzoo.evals.choices import choice_log_probs
from fmzoo.evals.features import image_features, predict_labels, text_features
from fmzoo.evals.frechet import frechet_distance, gaussian_distance
from fmzoo.evals.image_quality import image_quality
from fmzoo.evals.intervals import Interval, bootstrap
from fmzoo.evals.kernel_distance import kernel_distance
from fmzoo.evals.kneser_ney import KneserNey
from fmzoo.evals.manifolds import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from fmzoo.evals.perplexity import Report, log_probs, perplexity
from fmzoo.evals.retrieval import chance_top1, clip_score, pair_scores, retrieval_top1

__all__ = [
    "CHECKS",
    "Check",
    "DensityCoverage",
    "Interval",
    "KneserNey",
    "PrecisionRecall",
    "Report",
    "audit",
    "bootstrap",
    "chance_top1",
    "choice_log_probs",
    "clip_score",
    "density_coverage",
    "frechet_distance",
    "gaussian_distance",
    "image_features",
    "image_quality",
    "kernel_distance",
    "log_probs",
    "pair_scores",
    "perplexity",
    "precision_recall",
    "predict_labels",
    "retrieval_top1",
    "text_features",
]
