"""Images and texts that belong together, told from all other pairs of the batch (CLIP, arXiv 2103.00020, figure 3)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.objectives.contract import Batch, Objective, Terms, weighted_mean
from fmzoo.objectives.cross_entropy import cross_entropy

Array = jax.Array


def contrastive_losses(images: Array, texts: Array, scale: Array, weights: Array) -> Array:
    """``(-log softmax_j(s x_i . y_j)[i] - log softmax_j(s y_i . x_j)[i]) / 2`` for each pair i, ``[B]``.

    Args:
      images: unit vectors ``[B, D]``.
      texts: unit vectors ``[B, D]``, row i of image i.
      scale: s, the inverse temperature.
      weights: ``[B]``; a pair of weight 0 is no alternative for the others.
    """
    logits = scale * (images @ texts.T)
    there, own = weights > 0, jnp.arange(len(weights))
    either = jnp.eye(len(weights), dtype=bool) | there  # its own column stays, so that nothing is infinite
    to_text = cross_entropy(jnp.where(either, logits, -jnp.inf), own)
    to_image = cross_entropy(jnp.where(either, logits.T, -jnp.inf), own)
    return (to_text + to_image) / 2


def contrastive(module: nn.Module) -> Objective:
    """The mean of `contrastive_losses` over a batch, in which every pair is an alternative for every other.

    It is coupled: the loss of a row depends on the other rows, so there are no microbatches whose sums would give it.
    `fmzoo.train.gradients` refuses to split it.

    Batch fields: ``image float32[B, H, W, C]``, ``caption int32[B, T]``, ``weights float32[B]``.

    Args:
      module: ``(image, caption)`` to unit vectors ``[B, D]`` of both, and the scale.

    Returns:
      An objective with the term ``loss`` and the metric ``retrieved``, the share of images nearest to their own text.
    """

    def terms(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: jax.Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen, rng, statistics
        weights = batch["weights"]
        images, texts, scale = module.apply({"params": params}, batch["image"], batch["caption"])
        losses = contrastive_losses(images, texts, scale, weights)
        similarity = jnp.where(weights > 0, images @ texts.T, -jnp.inf)
        found = (jnp.argmax(similarity, axis=1) == jnp.arange(len(weights))).astype(losses.dtype)
        return {"loss": weighted_mean(losses, weights)}, {"retrieved": weighted_mean(found, weights)}

    return Objective(terms, coupled=True)
