"""Multiple choice: how probable a model holds each of some answers to each of some questions (2005.14165, section 2.4).

What all prompts begin with, an instruction and examples, is read once; rows of like length then go on from its cache.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.generate import for_decoding
from fmzoo.generate.text import bucket, encode_rows, pad_rows
from fmzoo.models import Pretrained, init_cache

Array = jax.Array


def choice_log_probs(
    pretrained: Pretrained,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
) -> np.ndarray:
    """``ln p(choice | prompt)``, summed over the choice's tokens, ``float64[prompts, choices]``.

    Args:
      pretrained: a decoder; for many calls, its parameters best of `fmzoo.generate.for_decoding`.
      prompts: token ids as the model reads them, bos included.
      choices: token ids of each answer.
      batch_size: rows run together.

    Raises:
      InputError: a prompt or a choice is empty or has a token out of range, they do not fit the context together, or
        batch_size is below 1.
    """
    prompts, choices = encode_rows(pretrained, prompts), encode_rows(pretrained, choices)
    longest, most = max(map(len, prompts)) + max(map(len, choices)) - 1, pretrained.config.context_length
    if longest > most:
        raise InputError(f"a prompt and a choice make {longest} tokens; at most context_length={most} is accepted")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; at least 1 is needed")
    shared = min(_common(prompts), min(map(len, prompts)) - 1)
    module, params = pretrained.module, for_decoding(pretrained.params)
    slots = bucket(shared) + bucket(longest - shared)
    begun = _begin(module, params, *pad_rows([prompts[0][:shared]], bucket(max(1, shared))), slots=slots)
    rest = [prompt[shared:] for prompt in prompts]
    by_length = sorted(range(len(rest)), key=lambda i: len(rest[i]))
    scores = np.zeros((len(prompts), len(choices)))
    for stem in dict.fromkeys(tuple(choice[:-1]) for choice in choices):
        answers = [i for i, choice in enumerate(choices) if tuple(choice[:-1]) == stem]
        targets = np.array([choices[i] for i in answers], np.int32)
        for at in range(0, len(rest), batch_size):
            rows = by_length[at : at + batch_size]
            filled = [[*rest[i], *stem] for i in (rows + [rows[-1]] * batch_size)[:batch_size]]
            batch = pad_rows(filled, bucket(max(map(len, filled))))
            found = _score(module, params, begun, *batch, targets)
            scores[np.ix_(rows, answers)] = np.asarray(found, np.float64)[: len(rows)]
    return scores


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    return next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows)))


@functools.partial(jax.jit, static_argnames=("module", "slots"))
def _begin(module: nn.Module, params: Any, tokens: Array, segment_ids: Array, slots: int) -> Any:
    """The cache of one row after its tokens."""
    cache = init_cache(module.config, 1, slots, stacked=False)
    return module.apply({"params": params}, tokens, None, segment_ids, cache, method="features")[2]


@functools.partial(jax.jit, static_argnames="module")
def _score(module: nn.Module, params: Any, begun: Any, tokens: Array, segment_ids: Array, targets: Array) -> Array:
    """``[B, C]``: each row's last tokens but one, ``targets[:, :-1]``, are there already; the sum over all of them."""
    batch, length = tokens.shape[0], targets.shape[1]
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, batch, axis=0), begun)
    hidden, *_ = module.apply({"params": params}, tokens, None, segment_ids, cache, method="features")
    places = jnp.sum(segment_ids, axis=1)[:, None] - length + jnp.arange(length)
    last = jnp.take_along_axis(hidden, places[..., None], axis=1)
    log_probs = jax.nn.log_softmax(module.apply({"params": params}, last, method="unembed"))  # [B, L, V]
    return jnp.sum(log_probs[:, jnp.arange(length), targets], axis=-1)
