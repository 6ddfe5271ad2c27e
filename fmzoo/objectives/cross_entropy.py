"""Cross entropy of the next token, whole or in chunks that never hold all logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(logits: Array, targets: Array, *, z_loss: float = 0.0, label_smoothing: float = 0.0) -> Array:
    """``(1 - s) * -log p[target] + s * mean over V of -log p + z * (log Z)^2`` for each token.

    Args:
      logits: ``[..., V]``.
      targets: ``int[...]``.
      z_loss: z, which keeps the normaliser near 1 (PaLM, arXiv 2204.02311, section 5).
      label_smoothing: s (arXiv 1512.00567, section 7).

    Returns:
      ``[...]`` in float32 or better, in nats.
    """
    logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
    log_z = jax.nn.logsumexp(logits, axis=-1)
    loss = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_z - jnp.mean(logits, axis=-1))
    return loss + z_loss * log_z**2 if z_loss else loss


def chunked_cross_entropy(
    unembed: Callable[[Array], Array],
    hidden: Array,
    targets: Array,
    *,
    chunk: int,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Array:
    """`cross_entropy` of ``unembed(hidden)`` without ever holding ``[B, T, V]``; value and gradient are exact.

    Logits are made for ``chunk`` positions of every row at a time, and made again in the backward pass.

    Args:
      unembed: ``[B, c, D]`` to logits ``[B, c, V]``.
      hidden: ``[B, T, D]``.
      targets: ``int[B, T]``.
      chunk: positions at a time; T is padded up to a multiple.
      z_loss: as in `cross_entropy`.
      label_smoothing: as in `cross_entropy`.

    Returns:
      ``[B, T]`` in nats.
    """
    batch, length, width = hidden.shape
    pad = -length % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, pad)))

    @jax.checkpoint
    def one(piece: tuple[Array, Array]) -> Array:
        return cross_entropy(unembed(piece[0]), piece[1], z_loss=z_loss, label_smoothing=label_smoothing)

    pieces = (
        jnp.moveaxis(hidden.reshape(batch, -1, chunk, width), 1, 0),
        jnp.moveaxis(targets.reshape(batch, -1, chunk), 1, 0),
    )
    return jnp.moveaxis(jax.lax.map(one, pieces), 0, 1).reshape(batch, -1)[:, :length]
