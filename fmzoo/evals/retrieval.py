"""How well images and texts find each other: CLIP's score, and the share of images whose own text is nearest."""

import numpy as np

from fmzoo.errors import InputError, require


def clip_score(images: np.ndarray, texts: np.ndarray) -> float:
    """The mean of ``100 max(cosine, 0)`` over pairs of an image and its text (arXiv 2104.08718, with weight 100).

    Args:
      images: features ``[N, D]``; normalised here.
      texts: features ``[N, D]`` of the same pairs.

    Raises:
      InputError: the shapes do not fit, there is no pair, or a row is zero or not finite.
    """
    return float(pair_scores(images, texts).mean())


def pair_scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """``100 max(cosine, 0)`` of each pair, ``float64[N]``; as `clip_score`."""
    sizes = require("image features", images, "N D")
    require("text features", texts, "N D", sizes)
    return 100 * np.maximum((_normalise("image", images) * _normalise("text", texts)).sum(axis=1), 0)


def retrieval_top1(images: np.ndarray, texts: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Which images have their own text as the most similar one, ``float64[N]`` of 0 and 1; the mean is the rate.

    A tie counts the share that chance would give.

    Args:
      images: features ``[N, D]``.
      texts: features ``[N, D]``, row i of image i.
      groups: ``[N]``; if given, only texts of the image's group are looked at.

    Raises:
      InputError: as `clip_score`.
    """
    sizes = require("image features", images, "N D")
    require("text features", texts, "N D", sizes)
    similarity = _normalise("image", images) @ _normalise("text", texts).T
    if groups is not None:
        require("groups", groups, "N", sizes)
        similarity = np.where(np.asarray(groups)[:, None] == np.asarray(groups), similarity, -np.inf)
    best = similarity == similarity.max(axis=1, keepdims=True)
    return np.diagonal(best) / best.sum(axis=1)


def chance_top1(groups: np.ndarray) -> float:
    """What `retrieval_top1` gives on average to one who picks among the texts of a group at random."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return float((1 / sizes[group]).mean())


def _normalise(name: str, features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not len(features):
        raise InputError(f"{name} features have no row; at least one is needed")
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise InputError(f"{name} features have a row that is zero or not finite; directions are needed")
    return features / lengths
