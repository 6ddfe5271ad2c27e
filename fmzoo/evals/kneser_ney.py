"""Interpolated modified Kneser-Ney n-grams over integer tokens: the baseline that a neural language model has to beat.

Chen and Goodman (1999), An empirical study of smoothing techniques for language modeling, section 3. With a context of
k - 1 tokens and a the adjusted count,

    p_k(w | context) = (a(context w) - D_k(a(context w)) + gamma_k(context) p_{k-1}(w | shorter context)) / a(context .)

and gamma_k the sum of discounts of all tokens seen after the context, so that probabilities sum to 1. The adjusted
count is the count itself at the highest order and for n-grams that begin a document; below, it is the number of
different tokens seen before the n-gram. Single tokens are interpolated with the uniform distribution.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from fmzoo.errors import InputError
from fmzoo.evals.discounts import Evidence, estimate_discounts, maximise_likelihood, probabilities

Documents = Sequence[Sequence[int] | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Level:
    """The n-grams of one order k. An n-gram's id is its place in ``keys``; a context's id is its id at order k - 1.

    The id of what was never seen is -1, and the last entry of the tables, all 0, stands for it.

    Attributes:
      keys: ``int64[n-grams]``, rising: ``context * (vocab_size + 1) + token``.
      counts: ``int64[n-grams + 1]``, adjusted.
      totals: ``float64[contexts + 1]``, the sum of counts after each context.
      kinds: ``float64[3, contexts + 1]``, how many tokens after each context have a count of 1, of 2, of 3 or more.
    """

    keys: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The ids of n-grams ``int64[...]``, -1 for those never seen (a negative key is one of them)."""
        if not len(self.keys):
            return np.full_like(keys, -1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)


@dataclasses.dataclass(frozen=True)
class KneserNey:
    """A fitted model; make one with `KneserNey.fit` or `KneserNey.tune`.

    Attributes:
      vocab_size: V; tokens are ``0 .. V - 1``.
      levels: of orders 1 to the highest.
      discounts: ``float64[order, 3]``, what is taken from counts of 1, of 2, of 3 and more.
    """

    vocab_size: int
    levels: tuple[Level, ...]
    discounts: np.ndarray

    @classmethod
    def fit(
        cls, documents: Documents, vocab_size: int, order: int, *, discounts: np.ndarray | None = None
    ) -> "KneserNey":
        """Counts the n-grams of documents; none goes across documents, and each document's beginning is a context.

        Args:
          documents: integer sequences; whoever wants to predict a document's end appends an eos to each.
          vocab_size: V.
          order: the longest n-gram, its last token the predicted one.
          discounts: ``[order, 3]``; None estimates them from the counts of counts (`estimate_discounts`).

        Raises:
          InputError: there is no token, a token is out of range, or the order is below 1.
        """
        if order < 1:
            raise InputError(f"order is {order}; at least 1 is needed")
        stream, offsets = _stream(documents, vocab_size)
        if not (offsets > 0).any():
            raise InputError("documents hold no token; at least one is needed")
        levels = tuple(_count(stream, offsets, vocab_size, order))
        if discounts is None:
            discounts = np.stack([estimate_discounts(level.counts) for level in levels])
        discounts = np.asarray(discounts, np.float64)
        if discounts.shape != (order, 3) or not ((discounts > 0) & (discounts <= [1, 2, 3])).all():
            raise InputError(f"discounts are {discounts.tolist()}; [{order}, 3] above 0 and at most 1, 2, 3 are needed")
        return cls(vocab_size, levels, discounts)

    @classmethod
    def tune(
        cls, documents: Documents, vocab_size: int, order: int, *, held_out: Sequence[int] | None = None
    ) -> "KneserNey":
        """As `fit`, with the discounts that predict held-out training documents best.

        Counts are taken without some of the documents, the discounts are chosen by the likelihood of those, and then
        all documents are counted.

        Args:
          documents: as in `fit`.
          vocab_size: V.
          order: the longest n-gram.
          held_out: places of documents, best of the kind that the model is for; None takes every tenth, or the last
            tenth of an only document.

        Raises:
          InputError: as in `fit`, or no token or every token is held out.
        """
        kept, rest = _split(documents, held_out)
        model = cls.fit(kept, vocab_size, order)
        if not any(len(document) for document in rest):
            raise InputError(f"held_out documents {held_out} hold no token; at least one is needed")
        discounts = maximise_likelihood(model._evidence(rest), vocab_size, model.discounts)
        return cls.fit(documents, vocab_size, order, discounts=discounts)

    def log_probs(self, document: Sequence[int] | np.ndarray) -> np.ndarray:
        """``ln p(token | all before it)`` of each token, ``float64[T]``.

        Raises:
          InputError: a token is out of range.
        """
        evidence = self._evidence([document])
        return np.log(probabilities(evidence, self.vocab_size, self.discounts)[-1])

    def bits(self, documents: Documents) -> float:
        """The information of all tokens of all documents together; divided by their bytes it is bits per byte."""
        return -sum(float(self.log_probs(document).sum()) for document in documents) / math.log(2)

    def _evidence(self, documents: Documents) -> list[Evidence]:
        """What every order has seen of each token, in order of the documents."""
        stream, offsets = _stream(documents, self.vocab_size)
        real, evidence = offsets > 0, []
        ids = np.zeros(len(stream) + 1, np.int64)  # of the context of each place: the empty one
        for k, level in enumerate(self.levels, start=1):
            known = (offsets >= k - 1) & (ids[:-1] >= 0)
            found = level.find(np.where(known, ids[:-1] * (self.vocab_size + 1) + stream, -1))
            context = np.where(known, ids[:-1], -1)[real]
            evidence.append(Evidence(level.counts[found[real]], level.totals[context], level.kinds[:, context]))
            ids = np.concatenate([[-1], found])
        return evidence


def _stream(documents: Documents, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All documents in a row, each after a begin mark V, and each place's distance from its mark."""
    tokens, offsets = [], []
    for document in documents:
        document = np.asarray(document, np.int64)
        if document.size and (document.min() < 0 or document.max() >= vocab_size):
            bad = document[(document < 0) | (document >= vocab_size)][0]
            raise InputError(f"a document holds token {bad}; tokens from 0 to {vocab_size - 1} are needed")
        tokens += [[vocab_size], document]
        offsets.append(np.arange(len(document) + 1, dtype=np.int32))
    if not tokens:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    return np.concatenate(tokens).astype(np.int64), np.concatenate(offsets)


def _split(documents: Documents, held_out: Sequence[int] | None) -> tuple[list, list]:
    """Documents to count and documents held out."""
    if held_out is None and len(documents) == 1:
        cut = len(documents[0]) * 9 // 10
        return [documents[0][:cut]], [documents[0][cut:]]
    gap = max(1, min(10, len(documents)))
    chosen = set(range(gap - 1, len(documents), gap) if held_out is None else held_out)
    return [d for i, d in enumerate(documents) if i not in chosen], [documents[i] for i in sorted(chosen)]


def _count(stream: np.ndarray, offsets: np.ndarray, vocab_size: int, order: int) -> Iterable[Level]:
    """The levels, lowest first. Each waits for the next one's n-grams, which say what was seen before its own."""
    contexts, size = np.zeros(len(stream), np.int64), 1
    waiting = None
    for k in range(1, order + 1):
        whole = offsets >= k - 1
        keys, found = _number(contexts[whole] * (vocab_size + 1) + stream[whole], size * (vocab_size + 1))
        ids = np.full(len(stream), -1, np.int64)
        ids[whole] = found
        if waiting is not None:
            lower, lower_ids, lower_keys, lower_size = waiting
            shorter = np.empty(len(keys), np.int64)  # each n-gram without its first token
            shorter[found] = lower_ids[whole]
            counts = np.bincount(shorter, minlength=len(lower_keys))
            if lower > 1:
                counts += np.bincount(lower_ids[offsets == lower - 1], minlength=len(lower_keys))
            yield _level(lower_keys, counts, lower_size, vocab_size)
        waiting = k, ids, keys, size
        contexts, size = np.concatenate([[-1], ids[:-1]]), len(keys)
    predicted = waiting[1][(offsets >= order - 1) & (offsets > 0)]
    yield _level(waiting[2], np.bincount(predicted, minlength=len(waiting[2])), waiting[3], vocab_size)


def _number(keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The different keys, rising, and the place of each key among them; by a table of ``size`` where that is cheap."""
    if size > 4 * len(keys):
        return np.unique(keys, return_inverse=True)
    there = np.zeros(size, bool)
    there[keys] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[keys]


def _level(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int) -> Level:
    context, room = keys // (vocab_size + 1), contexts + 1
    kinds = [np.bincount(context[mask], minlength=room) for mask in (counts == 1, counts == 2, counts > 2)]
    totals = np.bincount(context, weights=counts, minlength=room)
    return Level(keys, np.append(counts, 0), totals, np.stack(kinds).astype(np.float64))
