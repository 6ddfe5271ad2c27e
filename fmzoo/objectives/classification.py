"""Naming what is in a picture."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.objectives.contract import Batch, ObjectiveFn, Terms, weighted_mean
from fmzoo.objectives.cross_entropy import cross_entropy


def classification(module: nn.Module, *, label_smoothing: float = 0.0) -> ObjectiveFn:
    """The mean negative log-likelihood of ``label`` given ``image``.

    Batch fields: ``image float32[B, H, W, C]``, ``label int32[B]``, ``weights float32[B]``.

    Args:
      module: images to logits ``[B, classes]``.
      label_smoothing: share of the target spread over the classes.

    Returns:
      An objective with the term ``loss`` and the metric ``accuracy``.
    """

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: jax.Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen, rng, statistics
        logits = module.apply({"params": params}, batch["image"])
        losses = cross_entropy(logits, batch["label"], label_smoothing=label_smoothing)
        right = (jnp.argmax(logits, axis=-1) == batch["label"]).astype(losses.dtype)
        weights = batch["weights"]
        return {"loss": weighted_mean(losses, weights)}, {"accuracy": weighted_mean(right, weights)}

    return objective
