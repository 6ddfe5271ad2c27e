"""Attention over the pixels of a latent image, where the scores of one layer can exceed the whole network's memory."""

import jax
import jax.numpy as jnp

from fmzoo.models.attention import attend

Array = jax.Array


def attend_pixels(q: Array, k: Array, v: Array, *, implementation: str = "xla") -> Array:
    """``softmax(q k^T / sqrt(H)) v`` over all keys.

    Args:
      q: ``[B, T, N, H]``.
      k: ``[B, S, N, H]``.
      v: ``[B, S, N, H]``.
      implementation: ``xla``; ``rows``, which holds the scores of one row and head at a time and keeps none for the
        gradient (no forward mode); or ``cudnn``, a fused kernel on an NVIDIA GPU in float16 or bfloat16.

    Returns:
      ``[B, T, N, H]`` in the dtype of ``v``; scores and softmax are in float32 or better.
    """
    scale = q.shape[-1] ** -0.5
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")
    if implementation == "xla":
        return attend(q, k, v, None, scale=scale).astype(v.dtype)
    batch, length, heads, width = q.shape
    each = tuple(
        jnp.swapaxes(x, 1, 2).reshape(batch * heads, -1, width) for x in (q * jnp.asarray(scale, q.dtype), k, v)
    )
    out = jax.lax.map(lambda one: attend_head(*one), each)
    return jnp.swapaxes(out.reshape(batch, heads, length, width), 1, 2)


@jax.custom_vjp
def attend_head(q: Array, k: Array, v: Array) -> Array:
    """``softmax(q k^T) v`` of one row and head: ``q [T, H]``, ``k [S, H]``, ``v [S, H]`` to ``[T, H]``.

    The gradient computes the scores again, transposed to ``[S, T]``, so that no product contracts rows: XLA on CPU is
    slow at those (after FlashAttention-2, arXiv 2307.08691, algorithm 2, in one block).
    """
    return _forward(q, k, v)[0]


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple]:
    wide = jnp.promote_types(jnp.float32, q.dtype)
    scores = jnp.matmul(q, k.T, preferred_element_type=wide)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=wide) / total
    return out.astype(v.dtype), (q, k, v, out.astype(v.dtype), (largest + jnp.log(total))[:, 0])


def _backward(kept: tuple, grads: Array) -> tuple[Array, Array, Array]:
    q, k, v, out, log_total = kept
    wide, apart = log_total.dtype, jax.lax.optimization_barrier  # else a transpose is folded into the product
    weights = apart(jnp.exp(jnp.matmul(k, q.T, preferred_element_type=wide) - log_total))  # [S, T]
    along = jnp.sum(grads.astype(wide) * out.astype(wide), axis=-1)
    change = weights * (jnp.matmul(v, grads.T, preferred_element_type=wide) - along)
    change = apart(change.astype(q.dtype))
    to_q = apart(jnp.matmul(apart(k.T), change)).T
    return to_q, jnp.matmul(change, q), jnp.matmul(weights.astype(grads.dtype), grads)


attend_head.defvjp(_forward, _backward)
