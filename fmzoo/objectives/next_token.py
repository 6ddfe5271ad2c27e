"""Predicting the next token: the pretraining objective of every decoder."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from fmzoo.objectives.contract import Batch, ObjectiveFn, Terms, example_keys, weighted_mean
from fmzoo.objectives.cross_entropy import chunked_cross_entropy, cross_entropy


def next_token(
    module: nn.Module,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    train: bool = True,
) -> ObjectiveFn:
    """The mean negative log-likelihood of ``targets`` over tokens of weight 1.

    Batch fields: ``inputs, targets int32[B, T]``, ``weights float32[B, T]``, ``example_id int32[B]``, and
    ``positions, segment_ids int32[B, T]`` if documents are packed.

    Args:
      module: a decoder.
      z_loss: coefficient of the squared log-normaliser, part of the loss.
      label_smoothing: share of the target spread over the vocabulary.
      chunk: positions of which logits are held at a time; None holds all.
      train: draw dropout if the config has any.

    Returns:
      An objective with the term ``loss`` and, if the loss is shaped by the first two, the metric ``nats`` without them.
    """
    dropped = train and (module.config.dropout > 0 or module.config.attention.dropout > 0)

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: jax.Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen, statistics
        keys = example_keys(rng, "dropout", batch["example_id"]) if dropped else None
        variables, targets = {"params": params}, batch["targets"]
        packing = {"positions": batch.get("positions"), "segment_ids": batch.get("segment_ids")}
        hidden, _, _ = module.apply(variables, batch["inputs"], **packing, dropout_keys=keys, method="features")

        def unembed(hidden: jax.Array) -> jax.Array:
            return module.apply(variables, hidden, method="unembed")

        losses, nats = token_losses(unembed, hidden, targets, z_loss, label_smoothing, chunk)
        metrics = {} if nats is losses else {"nats": weighted_mean(nats, batch["weights"])}
        return {"loss": weighted_mean(losses, batch["weights"])}, metrics

    return objective


def token_losses(
    unembed: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    targets: jax.Array,
    z_loss: float,
    label_smoothing: float,
    chunk: int | None,
) -> tuple[jax.Array, jax.Array]:
    """The loss of each token ``[B, T]``, and the same without z-loss and smoothing, not differentiated."""
    shaping = {"z_loss": z_loss, "label_smoothing": label_smoothing}
    if chunk is not None:
        losses = chunked_cross_entropy(unembed, hidden, targets, chunk=chunk, **shaping)
        return losses, losses
    logits = unembed(hidden)
    losses = cross_entropy(logits, targets, **shaping)
    if not (z_loss or label_smoothing):
        return losses, losses
    return losses, jax.lax.stop_gradient(cross_entropy(logits, targets))
