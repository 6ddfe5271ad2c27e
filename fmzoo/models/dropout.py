"""Dropout with a key for each row of the batch, so that any split of the batch draws the same noise."""

import jax
import jax.numpy as jnp

Array = jax.Array


def fold(keys: Array | None, number: Array | int) -> Array | None:
    """Each row's key ``[B]`` folded with a number; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def dropout(x: Array, keys: Array | None, rate: float) -> Array:
    """Zeroes a share of ``x [B, ...]`` and scales the rest by ``1 / (1 - rate)`` (Srivastava et al. 2014).

    Args:
      x: ``[B, ...]``.
      keys: a key for each row, ``[B]``; None leaves ``x`` as it is.
      rate: the share in ``[0, 1)``.
    """
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)
