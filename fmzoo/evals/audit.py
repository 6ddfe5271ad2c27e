"""Whether a decoder keeps what every stage relies on: masks, pads, packing, the cache, decoding."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import FlaxError

from fmzoo.errors import InputError, nearest, require
from fmzoo.generate import decode
from fmzoo.models import init_cache

Array = jax.Array


class Check(NamedTuple):
    """One promise and how it was kept.

    Attributes:
      name: of the promise.
      error: the largest difference of two logits that must be equal over the largest logit; for gradients, relative
        L2. NaN if the model failed.
      limit: the error up to which it counts as kept.
      detail: what was compared, or why it could not be.
    """

    name: str
    error: float
    limit: float
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the promise is kept; NaN is not."""
        return self.error <= self.limit


class _Model:
    """A module with its parameters and two documents a row; all rows that it reads have one of two lengths."""

    def __init__(self, module: nn.Module, params: Any, tokens: Array):
        self.module, self.params = module, params
        self.first, self.second = jnp.split(tokens, 2, axis=1)

        @jax.jit
        def call(params: Any, tokens: Array, segment_ids: Array | None, cache: Any) -> Any:
            return module.apply({"params": params}, tokens, segment_ids=segment_ids, cache=cache)

        self._call = call

    @property
    def size(self) -> int:
        """The tokens of a document."""
        return self.first.shape[1]

    def alone(self, tokens: Array) -> Array:
        """Logits of one document in a row of its own."""
        return self._call(self.params, tokens, None, None)

    def beside(self, *parts: tuple[Array, int], params: Any = None) -> list[Array]:
        """Logits of three parts side by side, each tokens and their segment id."""
        tokens = jnp.concatenate([part for part, _ in parts], axis=1)
        segments = jnp.concatenate([jnp.full_like(part, segment) for part, segment in parts], axis=1)
        return jnp.split(self._call(self.params if params is None else params, tokens, segments, None), 3, axis=1)

    def step(self, tokens: Array, cache: Any) -> tuple[Array, Any]:
        """Logits of the next tokens, and the cache after them."""
        return self._call(self.params, tokens, None, cache)


def audit(
    module: nn.Module,
    params: Any,
    tokens: Array | None = None,
    *,
    checks: Sequence[str] | None = None,
    seed: int = 0,
    limit: float | None = None,
) -> list[Check]:
    """Checks a decoder, of the zoo or of one's own that is called as `fmzoo.models.Decoder` is.

    Args:
      module: with a config that has ``vocab_size``, ``context_length`` and ``compute_dtype``.
      params: its parameters.
      tokens: ``int32[B, T]``, two documents side by side in each row, T even and at least 8. None is two rows of random
        tokens, long enough to leave a local layer's window if that is below 64.
      checks: names of `CHECKS`; None is all.
      seed: of random tokens.
      limit: of the errors; None is 1e-9 where the model computes in float64, 1e-4 in float32, 0.05 below.

    Returns:
      A `Check` for each promise, in a fixed order.

    Raises:
      InputError: the tokens are not of that shape or more than two thirds of the context, or a check is unknown.
    """
    config = module.config
    if tokens is None:
        tokens = _random_tokens(config, seed)
    length = require("tokens", tokens, "B T")["T"]
    most = config.context_length // 3 * 2
    if length % 2 or not 8 <= length <= most:
        raise InputError(
            f"tokens are of length {length}; an even number from 8 to {most}, two thirds of the context, is needed"
        )
    if limit is None:
        limit = {8: 1e-9, 4: 1e-4}.get(jnp.dtype(config.compute_dtype).itemsize, 0.05)
    model = _Model(module, params, jnp.asarray(tokens, jnp.int32))
    unknown = [name for name in checks or () if name not in CHECKS]
    if unknown:
        raise InputError(f"there is no check {unknown[0]!r}; {nearest(unknown[0], CHECKS)}")
    return [_run(name, CHECKS[name], model, limit) for name in checks or CHECKS]


def _random_tokens(config: Any, seed: int) -> Array:
    window = config.attention.window or 0
    length = min(max(24, 4 * window if window < 64 else 0), config.context_length // 3 * 2)
    length -= length % 2
    return jax.random.randint(jax.random.key(seed), (2, length), 0, config.vocab_size)


def _run(name: str, check: Callable[[_Model], float], model: _Model, limit: float) -> Check:
    try:
        return Check(name, float(check(model)), limit, inspect.getdoc(check))
    except (InputError, TypeError, ValueError, KeyError, IndexError, FlaxError) as error:
        return Check(name, float("nan"), limit, f"failed: {' '.join(str(error).split())[:200]}")


def _error(got: Array, wanted: Array) -> float:
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))


def _packed(model: _Model) -> float:
    """Two documents in one row give the logits that each gives alone."""
    first, second, _ = model.beside((model.first, 1), (model.second, 2), (model.first, 0))
    return max(_error(first, model.alone(model.first)), _error(second, model.alone(model.second)))


def _unseen(model: _Model) -> float:
    """Other tokens in the document before, or as pads, change no logit."""
    other = (model.first + 1) % model.module.config.vocab_size
    first, second = ((tokens, 1) for tokens in (model.first, other))
    one = model.beside(first, (model.second, 2), (model.first, 0))
    two = model.beside(second, (model.second, 2), (other, 0))
    return _error(two[1], one[1])


def _padded(model: _Model) -> float:
    """Pads on the left or on the right change no logit of the tokens."""
    alone, pads = model.alone(model.second), (model.first, 0)
    left, right = model.beside(pads, pads, (model.second, 1)), model.beside((model.second, 1), pads, pads)
    return max(_error(left[2], alone), _error(right[0], alone))


def _gradients(model: _Model) -> float:
    """The gradient of one document's loss is the same alone and between another document and pads."""

    def loss(logits: Array) -> Array:
        log_probs = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(log_probs, model.second[:, 1:, None], axis=-1))

    def among(params: Any) -> Array:
        return loss(model.beside((model.first, 1), (model.second, 2), (model.first, 0), params=params)[1])

    def alone(params: Any) -> Array:
        return loss(model.module.apply({"params": params}, model.second))

    got, wanted = (jax.tree.leaves(jax.jit(jax.grad(f, allow_int=True))(model.params)) for f in (among, alone))
    pairs = [(a, b) for a, b in zip(got, wanted, strict=True) if jnp.issubdtype(a.dtype, jnp.floating)]
    return float(np.sqrt(sum(_square(a - b) for a, b in pairs) / sum(_square(b) for _, b in pairs)))


def _square(leaf: Array) -> float:
    return float(jnp.sum(jnp.square(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)))))


def _cached(model: _Model) -> float:
    """One document at once and the next token by token, with a cache, give the logits of one pass."""
    batch = model.first.shape[0]
    logits, cache = model.step(model.first, init_cache(model.module.config, batch, 2 * model.size))
    parts = [logits]
    for i in range(model.size):
        logits, cache = model.step(model.second[:, i : i + 1], cache)
        parts.append(logits)
    whole = model.beside((model.first, 1), (model.second, 1), (model.first, 0))
    return _error(jnp.concatenate(parts, axis=1), jnp.concatenate(whole[:2], axis=1))


def _decoded(model: _Model) -> float:
    """The log-probs that decoding reports are those of one pass over prompt and answer."""
    keys = jax.random.split(jax.random.key(0), model.first.shape[0])
    out = decode(model.module, model.params, model.first, None, keys, max_new_tokens=model.size)
    logits = jnp.concatenate(model.beside((model.first, 1), (out.tokens, 1), (model.first, 0)), axis=1)
    log_probs = jax.nn.log_softmax(logits[:, model.size - 1 : 2 * model.size - 1])
    return _error(out.model_log_probs, jnp.take_along_axis(log_probs, out.tokens[..., None], axis=-1)[..., 0])


CHECKS: dict[str, Callable[[_Model], float]] = {
    "packed equals alone": _packed,
    "segments and pads unseen": _unseen,
    "pads on either side": _padded,
    "gradients stay in their segment": _gradients,
    "cached equals uncached": _cached,
    "decoding equals one pass": _decoded,
}
