"""How good a model is: perplexity and bits per byte, and the n-gram baseline to hold them against."""

from fmzoo.evals.kneser_ney import KneserNey
from fmzoo.evals.perplexity import Report, log_probs, perplexity

__all__ = ["KneserNey", "Report", "log_probs", "perplexity"]
