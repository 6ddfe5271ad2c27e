"""Answers that a constraint allows, complete within their tokens whatever the model does."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.generate.answers import Completion
from fmzoo.generate.constraints import Constraint, Progress
from fmzoo.generate.decoding import check_room, for_decoding, read_prompts
from fmzoo.generate.sampling import SamplingConfig, draw, log_prob
from fmzoo.generate.text import Prompt, bucket, encode_rows, pad_rows, row_keys
from fmzoo.models import Pretrained
from fmzoo.text import Tokenizer

Array = jax.Array


def constrained(
    pretrained: Pretrained,
    prompts: Prompt | Sequence[Prompt],
    constraint: Constraint,
    key: jax.Array,
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    example_ids: Sequence[int] | None = None,
) -> list[Completion]:
    """Continues prompts by what a constraint allows.

    Each token is drawn among those that may follow. One after which the answer could not be completed within
    ``max_new_tokens`` is not taken; the shortest ending known is written instead.

    Args:
      pretrained: a decoder with a tokenizer.
      prompts: one or several, as in `text`.
      constraint: for the tokenizer of this model.
      key: of all randomness.
      max_new_tokens: the longest answer.
      temperature: as in `text`; 0 is greedy.
      top_k: as in `text`.
      top_p: as in `text`.
      min_p: as in `text`.
      example_ids: as in `text`.

    Returns:
      An answer for each prompt, without the eos; ``ended_by`` is ``length`` where the ending was written for the model.
      Its ``log_probs`` are under what the constraint left, 0 for tokens of such an ending.

    Raises:
      InputError: no answer fits ``max_new_tokens``, or prompt and answer do not fit the context.
    """
    rows = encode_rows(pretrained, prompts)
    check_room(pretrained.config.context_length, max(map(len, rows)), max_new_tokens)
    if constraint.begin().ending(max_new_tokens) is None:
        raise InputError(f"max_new_tokens is {max_new_tokens}; the constraint needs more for any answer")
    answers = [_Growing(constraint.begin(), constraint.eos_id, max_new_tokens) for _ in rows]
    active = SamplingConfig(temperature, top_k, top_p, min_p).active()
    _grow(pretrained, rows, answers, row_keys(key, len(rows), example_ids), active)
    return [answer.completion(pretrained.tokenizer) for answer in answers]


@dataclasses.dataclass
class _Growing:
    """One row's answer so far.

    Attributes:
      progress: its tokens, and where the constraint stands.
      eos_id: ends it.
      room: how many tokens there may be.
      forced: what is left of the ending that is written for the model, once one is.
      ended_by: None while it grows.
      log_probs: of each token, as it was drawn and under the model.
    """

    progress: Progress
    eos_id: int
    room: int
    forced: list[int] = dataclasses.field(default_factory=list)
    ended_by: Literal["id", "length"] | None = None
    log_probs: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    def mask(self, size: int) -> np.ndarray:
        """``bool[size]``, the tokens to draw among: all that may follow, or the next of the ending."""
        if self.ended_by is not None:
            return np.ones(size, bool)
        if self.forced:
            return np.arange(size) == self.forced[0]
        mask = self.progress.mask()
        return np.pad(mask, (0, size - len(mask)))  # there may be more logits than tokens

    def refuses(self, token: int) -> bool:
        """Whether a token leaves no room to complete the answer, so that its ending is written from here on."""
        if self.ended_by is not None or self.forced or token == self.eos_id:
            return False
        left = self.room - len(self.progress.tokens)
        if self.progress.after(token).ending(left - 1) is not None:
            return False
        self.forced = self.progress.ending(left)
        self.ended_by = None if self.forced else "length"  # complete as it stands
        return True

    def take(self, token: int, log_probs: tuple[float, float]) -> None:
        """Adds a token that was not refused."""
        if self.ended_by is not None:
            return
        if token == self.eos_id:
            self.ended_by = "id"
            return
        self.progress.take(token)
        self.log_probs.append(log_probs)
        if self.forced:
            self.forced = self.forced[1:]
            self.ended_by = None if self.forced else "length"
        elif self.progress.finished or len(self.progress.tokens) == self.room:
            self.ended_by = "id"

    def completion(self, tokenizer: Tokenizer) -> Completion:
        """The finished answer."""
        drawn, modelled = np.asarray(self.log_probs, np.float32).reshape(-1, 2).T
        tokens = tuple(self.progress.tokens)
        return Completion(tokenizer.decode(tokens), tokens, drawn, modelled, self.ended_by)


def _grow(
    pretrained: Pretrained, rows: list[list[int]], answers: list[_Growing], keys: Array, active: dict[str, float]
) -> None:
    """Draws token by token until all answers have ended."""
    module, params, room = pretrained.module, for_decoding(pretrained.params), answers[0].room
    tokens, segment_ids = pad_rows(rows, bucket(max(map(len, rows))))
    slots = bucket(tokens.shape[1] + room)
    logits, cache = _read(module, params, tokens, segment_ids, slots=slots)
    for i in range(room + 1):
        drawn, log_probs = _draw(logits, answers, keys, i, active)
        if sum(answer.refuses(token) for answer, token in zip(answers, drawn, strict=True)):
            drawn, log_probs = _draw(logits, answers, keys, i, active)  # the same in all other rows
        for answer, token, pair in zip(answers, drawn, log_probs, strict=True):
            answer.take(token, pair)
        if all(answer.ended_by is not None for answer in answers):
            break
        logits, cache = _next(module, params, np.asarray(drawn, np.int32)[:, None], cache)


def _draw(
    logits: Array, answers: list[_Growing], keys: Array, i: int, active: dict[str, float]
) -> tuple[list[int], list[tuple[float, float]]]:
    """A token for each row, and its log-probs."""
    masks = np.stack([answer.mask(logits.shape[-1]) for answer in answers])
    tokens, *log_probs = jax.device_get(_choose(logits, masks, keys, i, active))
    return tokens.tolist(), list(zip(*(values.tolist() for values in log_probs), strict=True))


_read = jax.jit(read_prompts, static_argnames=("module", "slots"))


@functools.partial(jax.jit, static_argnames="module", donate_argnames="cache")
def _next(module: nn.Module, params: Any, token: Array, cache: Any) -> tuple[Array, Any]:
    hidden, _, cache = module.apply({"params": params}, token, None, None, cache, method="features")
    return module.apply({"params": params}, hidden[:, 0], method="unembed"), cache


@jax.jit
def _choose(logits: Array, masks: Array, keys: Array, i: Array, active: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Tokens that the masks have, their log-probs among those, and under the model itself."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)
    tokens, drawn, _ = draw(jnp.where(masks, logits, -jnp.inf), keys, None, active)
    return tokens, drawn, log_prob(logits, tokens)
