"""One answer that a constraint allows, complete within its tokens whatever the model does."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.generate.answers import Completion
from fmzoo.generate.constraints import Constraint
from fmzoo.generate.decoding import check_room, for_decoding
from fmzoo.generate.sampling import SamplingConfig, draw
from fmzoo.generate.text import Prompt, bucket, encode_rows, pad_rows
from fmzoo.models import Pretrained, init_cache

Array = jax.Array


def constrained(
    pretrained: Pretrained,
    prompt: Prompt,
    constraint: Constraint,
    key: jax.Array,
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Completion:
    """Continues one prompt by what a constraint allows.

    Each token is drawn among those that may follow. One after which the answer could not be completed within
    ``max_new_tokens`` is not taken; the shortest ending known is written instead.

    Args:
      pretrained: a decoder with a tokenizer.
      prompt: a text or token ids, as in `text`.
      constraint: for the tokenizer of this model.
      key: of all randomness.
      max_new_tokens: the longest answer.
      temperature: as in `text`; 0 is greedy.
      top_k: as in `text`.
      top_p: as in `text`.
      min_p: as in `text`.

    Returns:
      The answer, without the eos; ``ended_by`` is ``length`` where the ending was written for the model. Its
      ``log_probs`` are under what the constraint left, 0 for tokens of such an ending.

    Raises:
      InputError: no answer fits ``max_new_tokens``, or prompt and answer do not fit the context.
    """
    (tokens,) = encode_rows(pretrained, prompt)
    check_room(pretrained.config.context_length, len(tokens), max_new_tokens)
    if constraint.begin().ending(max_new_tokens) is None:
        raise InputError(f"max_new_tokens is {max_new_tokens}; the constraint needs more for any answer")
    active = SamplingConfig(temperature, top_k, top_p, min_p).active()
    return _answer(pretrained, tokens, constraint, key, max_new_tokens, active)


def _answer(
    pretrained: Pretrained, prompt: list[int], constraint: Constraint, key: Array, room: int, active: dict[str, Array]
) -> Completion:
    module, params = pretrained.module, for_decoding(pretrained.params)
    row, segment_ids = pad_rows([prompt], bucket(len(prompt)))
    logits, cache = _read(module, params, row, segment_ids, slots=bucket(row.shape[1] + room))
    progress, log_probs, forced, ended = constraint.begin(), [], [], False
    while not ended and len(progress.tokens) < room and not progress.finished:
        i = len(progress.tokens)
        mask = _only(forced[0], logits) if forced else _fit(progress.mask(), logits)
        drawn, *likely = jax.device_get(_choose(logits, mask, jax.random.fold_in(key, i)[None], active))
        token = int(drawn[0])
        if token == constraint.eos_id:
            break
        after = progress.after(token)
        if not forced and after.ending(room - i - 1) is None:
            forced = progress.ending(room - i)
            ended = not forced  # complete as it stands
            continue
        ended = len(forced) == 1
        progress, forced = after, forced[1:]
        log_probs.append([float(value[0]) for value in likely])
        logits, cache = _next(module, params, np.full((1, 1), token, np.int32), cache)
    drawn_as, modelled = np.asarray(log_probs, np.float32).reshape(-1, 2).T
    text = pretrained.tokenizer.decode(progress.tokens)
    return Completion(text, tuple(progress.tokens), drawn_as, modelled, "length" if ended else "id")


def _fit(mask: np.ndarray, logits: Array) -> np.ndarray:
    """A mask over the tokens of a vocabulary as long as the logits, which may have more."""
    return np.pad(mask, (0, logits.shape[-1] - len(mask)))


def _only(token: int, logits: Array) -> np.ndarray:
    return np.arange(logits.shape[-1]) == token


@functools.partial(jax.jit, static_argnames=("module", "slots"))
def _read(module: nn.Module, params: Any, tokens: Array, segment_ids: Array, slots: int) -> tuple[Array, Any]:
    """Logits ``[1, V]`` after the prompt, and the cache."""
    cache = init_cache(module.config, 1, slots, stacked=False)
    hidden, _, cache = module.apply({"params": params}, tokens, None, segment_ids, cache, method="features")
    last = jnp.sum(segment_ids, axis=1) - 1
    return module.apply({"params": params}, hidden[jnp.arange(1), last], method="unembed"), cache


@functools.partial(jax.jit, static_argnames="module", donate_argnames="cache")
def _next(module: nn.Module, params: Any, token: Array, cache: Any) -> tuple[Array, Any]:
    hidden, _, cache = module.apply({"params": params}, token, None, None, cache, method="features")
    return module.apply({"params": params}, hidden[:, 0], method="unembed"), cache


@jax.jit
def _choose(logits: Array, mask: Array, keys: Array, active: dict[str, Array]) -> tuple[Array, Array, Array]:
    """A token that the mask has, its log-prob among those, and under the model itself."""
    token, log_prob, _ = draw(jnp.where(mask, logits, -jnp.inf), keys, None, active)
    return token, log_prob, jax.nn.log_softmax(logits)[0, token]
