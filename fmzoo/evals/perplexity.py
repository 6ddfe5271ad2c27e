"""How well a decoder predicts whole documents, longer than its context too: perplexity and bits per byte.

A document stands after the tokenizer's bos, or eos if there is no bos, so that its first token is predicted as well;
with neither, the first token is not scored and its bytes are not counted. No end of document is predicted. Windows of
``context`` tokens step by ``stride``; each scores the tokens that no window before it did, so every token is scored
once, after at least ``context - stride`` tokens or all there are.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.objectives import chunked_cross_entropy
from fmzoo.text import Tokenizer

Document = str | Sequence[int] | np.ndarray
CHUNK = 128  # positions of which logits are held at a time
MOST_NATS = 709  # of which the exponential is still a float64


@dataclasses.dataclass(frozen=True)
class Report:
    """What a decoder makes of documents.

    Attributes:
      nats: the negative log-likelihood of all scored tokens together, in natural units.
      tokens: how many were scored.
      bytes: of UTF-8 that they stand for; None for token documents without a tokenizer.
    """

    nats: float
    tokens: int
    bytes: int | None

    @property
    def nats_per_token(self) -> float:
        """The mean negative log-likelihood, the validation loss."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-likelihood of a token; depends on the tokenizer."""
        return math.exp(self.nats_per_token) if self.nats_per_token < MOST_NATS else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """What models with different tokenizers are compared by; None if the bytes are not known."""
        return self.nats / math.log(2) / self.bytes if self.bytes else None


def perplexity(
    pretrained: Pretrained,
    documents: Iterable[Document],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> Report:
    """Scores every token of documents once.

    Args:
      pretrained: a decoder; text needs its tokenizer.
      documents: texts, or token ids without bos.
      context: tokens in a window; None is the model's context length.
      stride: new tokens in each window after the first; None is half the context. Less is slower and kinder.
      batch_size: windows run together; another size changes the result by rounding alone.

    Raises:
      InputError: there is nothing to score, a token is out of range, no tokenizer for text, or a number out of range.
    """
    rows = list(_encode(pretrained, documents))
    scores = log_probs(pretrained, [row.ids for row in rows], context=context, stride=stride, batch_size=batch_size)
    tokens = sum(map(len, scores))
    if not tokens:
        raise InputError(f"{len(rows)} documents hold no token to score; at least one is needed")
    known = all(row.bytes is not None for row in rows)
    return Report(
        nats=-math.fsum(math.fsum(score) for score in scores),
        tokens=tokens,
        bytes=sum(row.bytes for row in rows) if known else None,
    )


def log_probs(
    pretrained: Pretrained,
    rows: Sequence[Sequence[int] | np.ndarray],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> list[np.ndarray]:
    """``ln p(token | what its window holds before it)`` for all but the first token of each row, ``float64[len - 1]``.

    Args:
      pretrained: a decoder.
      rows: token ids as the model reads them, bos included.
      context: as in `perplexity`.
      stride: as in `perplexity`.
      batch_size: as in `perplexity`.

    Raises:
      InputError: a token or a number is out of range.
    """
    config = pretrained.config
    context = config.context_length if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    for name, value, most in (("context", context, config.context_length), ("stride", stride, context)):
        if not 1 <= value <= most:
            raise InputError(f"{name} is {value}; a number from 1 to {most} is needed")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; at least 1 is needed")
    rows = [_check(row, config.vocab_size) for row in rows]
    scores = [np.zeros(max(0, len(row) - 1)) for row in rows]
    windows = [(i, *w) for i, row in enumerate(rows) for w in split_windows(len(row) - 1, context, stride)]
    width = min(context, -(-max((w[2] - w[1] for w in windows), default=1) // CHUNK) * CHUNK)
    for at in range(0, len(windows), batch_size):
        some = windows[at : at + batch_size]
        found = _score(pretrained.module, pretrained.params, *_fill(rows, some, batch_size, width))
        for (row, start, end, new), line in zip(some, np.asarray(found, np.float64), strict=False):
            scores[row][new:end] = line[new - start : end - start]
    return scores


def split_windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows ``(start, end, new)`` over inputs ``0 .. length - 1``; each scores what follows ``new .. end - 1``.

    The last window begins earlier than its stride says if that lets it be whole.
    """
    new = 0
    while new < length:
        end = min(context if new == 0 else new + stride, length)
        yield max(0, end - context), end, new
        new = end


@dataclasses.dataclass(frozen=True)
class _Row:
    ids: list[int]  # as the model reads them
    bytes: int | None  # of the scored tokens


def _encode(pretrained: Pretrained, documents: Iterable[Document]) -> Iterator[_Row]:
    tokenizer = pretrained.tokenizer
    starts = [i for i in (getattr(tokenizer, "bos_id", None), getattr(tokenizer, "eos_id", None)) if i is not None][:1]
    for document in [documents] if isinstance(documents, str) else documents:
        if isinstance(document, str) and tokenizer is None:
            raise InputError("a document is text and the model has no tokenizer; token ids are accepted")
        ids = tokenizer.encode(document) if isinstance(document, str) else [int(token) for token in document]
        text = document if isinstance(document, str) else None if tokenizer is None else tokenizer.decode(ids)
        size = None if text is None else len(text.encode())
        if size is not None and not starts:
            size -= _size(tokenizer, ids[:1])
        yield _Row([*starts, *ids], size)


def _size(tokenizer: Tokenizer, ids: list[int]) -> int:
    """The bytes of tokens, which need not be whole characters where the tokenizer tells them."""
    told = hasattr(tokenizer, "decode_bytes")
    return len(tokenizer.decode_bytes(ids)) if told else len(tokenizer.decode(ids).encode())


def _check(row: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    row = np.asarray(row, np.int64)
    wrong = row[(row < 0) | (row >= vocab_size)]
    if len(wrong):
        raise InputError(f"a document holds token {wrong[0]}; tokens from 0 to {vocab_size - 1} are accepted")
    return row


def _fill(rows: list[np.ndarray], windows: list[tuple], batch_size: int, width: int) -> np.ndarray:
    """Inputs, targets and segment ids ``int32[3, batch_size, width]``; pads are behind, in segment 0."""
    batch = np.zeros((3, batch_size, width), np.int32)
    for line, (row, start, end, _) in enumerate(windows):
        size = end - start
        batch[0, line, :size], batch[1, line, :size] = rows[row][start:end], rows[row][start + 1 : end + 1]
        batch[2, line, :size] = 1
    return batch


@functools.partial(jax.jit, static_argnames="module")
def _score(module: nn.Module, params: Any, inputs: jax.Array, targets: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """``ln p(target)`` of each place, ``[B, T]``."""
    hidden, *_ = module.apply({"params": params}, inputs, segment_ids=segment_ids, method="features")

    def unembed(hidden: jax.Array) -> jax.Array:
        return module.apply({"params": params}, hidden, method="unembed")

    return -chunked_cross_entropy(unembed, hidden, targets, chunk=min(CHUNK, inputs.shape[1]))
