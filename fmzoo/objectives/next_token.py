"""Predicting the next token: the pretraining objective of every decoder."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Batch, Objective, ObjectiveFn, Terms, example_keys, weighted_mean
from fmzoo.objectives.cross_entropy import chunked_cross_entropy, cross_entropy
from fmzoo.objectives.expert_balance import (
    RouterSums,
    balance_term,
    load_means,
    normaliser_term,
    peak_load,
    sum_reports,
)


def next_token(
    module: nn.Module,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    balance: float = 0.0,
    router_z: float = 0.0,
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
      balance: coefficient of the loss that spreads tokens over a mixture's experts (`balance_term`), a term of its
        own. How many tokens chose each expert is a statistic of the whole batch, prepared by a forward pass.
      router_z: coefficient of the squared log-normaliser of the routers (`normaliser_term`), a term of its own.
      train: draw dropout if the config has any.

    Returns:
      An objective with the term ``loss`` and, if the loss is shaped by the first two and all logits are held, the
      metric ``nats`` without them; with ``balance`` the metric ``peak_load`` too.

    Raises:
      InputError: a coefficient is for experts, and the module has none.
    """
    config = module.config
    dropped = train and (config.dropout > 0 or config.attention.dropout > 0)
    if (balance or router_z) and config.experts is None:
        raise InputError(f"balance is {balance} and router_z {router_z}; 0 is needed for a model without experts")

    def features(params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Any]:
        keys = example_keys(rng, "dropout", batch["example_id"]) if dropped else None
        packing = {"positions": batch.get("positions"), "segment_ids": batch.get("segment_ids")}
        inputs = batch["inputs"]
        return module.apply({"params": params}, inputs, **packing, dropout_keys=keys, method="features")[:2]

    def sum_router(reports: Any, batch: Batch) -> RouterSums:
        return sum_reports(reports, batch["weights"], batch.get("segment_ids"))

    def prepare(params: Any, frozen: dict[str, Any], batch: Batch, rng: jax.Array) -> Terms:
        del frozen
        return load_means(sum_router(features(params, batch, rng)[1], batch), config.experts)

    def objective(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: jax.Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del frozen
        hidden, reports = features(params, batch, rng)

        def unembed(hidden: jax.Array) -> jax.Array:
            return module.apply({"params": params}, hidden, method="unembed")

        losses, nats = token_losses(unembed, hidden, batch["targets"], z_loss, label_smoothing, chunk)
        metrics = {} if nats is losses else {"nats": weighted_mean(nats, batch["weights"])}
        terms = {"loss": weighted_mean(losses, batch["weights"])}
        if balance or router_z:
            sums = sum_router(reports, batch)
        if balance:
            terms["balance"] = balance_term(sums, statistics["expert_load"], balance)
            metrics["peak_load"] = peak_load(sums, statistics["expert_load"])
        if router_z:
            terms["router_z"] = normaliser_term(sums, router_z)
        return terms, metrics

    return Objective(objective, prepare) if balance else objective


def token_losses(
    unembed: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    targets: jax.Array,
    z_loss: float,
    label_smoothing: float,
    chunk: int | None,
) -> tuple[jax.Array, jax.Array]:
    """The loss of each token ``[B, T]``, and the same without z-loss and smoothing, not differentiated.

    In chunks, where that would make all logits once more, the second is the first.
    """
    shaping = {"z_loss": z_loss, "label_smoothing": label_smoothing}
    if chunk is not None:
        losses = chunked_cross_entropy(unembed, hidden, targets, chunk=chunk, **shaping)
        return losses, losses
    logits = unembed(hidden)
    losses = cross_entropy(logits, targets, **shaping)
    if not (z_loss or label_smoothing):
        return losses, losses
    return losses, jax.lax.stop_gradient(cross_entropy(logits, targets))
