"""Kneser-Ney n-grams on the text that a language model learned from: the levels that it has to get below."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fmzoo.evals import KneserNey
from fmzoo.text import Tokenizer

TOKEN_ORDERS = (2, 3, 5)
BYTE_ORDER = 5


class Level(NamedTuple):
    """How well something predicts held-out documents.

    Attributes:
      name: of the predictor.
      bits_per_byte: the information of the documents, divided by their bytes.
      nats_per_token: the same information by the model's tokens, whatever the predictor's own are.
    """

    name: str
    bits_per_byte: float
    nats_per_token: float


def kneser_ney_levels(
    tokenizer: Tokenizer,
    train: Sequence[str],
    held_out: Sequence[str],
    *,
    token_orders: Sequence[int] = TOKEN_ORDERS,
    byte_order: int | None = BYTE_ORDER,
) -> Iterator[Level]:
    """Interpolated modified Kneser-Ney over the model's tokens and over bytes, each as soon as it is known.

    Counts and discounts are of training text alone: the discounts are those that predict a tenth of its documents best
    from the other nine (`fmzoo.evals.KneserNey.tune`). As in `fmzoo.evals.perplexity`, each document's first token is
    predicted from its beginning, and its end is not predicted.

    Args:
      tokenizer: of the model.
      train: the documents that the model learned from.
      held_out: the documents to predict.
      token_orders: of the models over tokens.
      byte_order: of the model over bytes; None for none.

    Raises:
      InputError: the training documents hold no text.
    """
    tokens = [np.asarray(tokenizer.encode(document), np.int64) for document in held_out]
    size, length = sum(len(document.encode()) for document in held_out), sum(map(len, tokens))

    def level(name: str, model: KneserNey, documents: list[np.ndarray]) -> Level:
        bits = model.bits(documents)
        return Level(name, bits / size, bits * math.log(2) / length)

    learned = [np.asarray(tokenizer.encode(document), np.int64) for document in train]
    for order in token_orders:
        model = KneserNey.tune(learned, tokenizer.vocab_size, order)
        yield level(f"Kneser-Ney, order {order} over tokens", model, tokens)
    if byte_order is not None:
        model = KneserNey.tune([_bytes(document) for document in train], 256, byte_order)
        yield level(f"Kneser-Ney, order {byte_order} over bytes", model, [_bytes(document) for document in held_out])


def _bytes(document: str) -> np.ndarray:
    return np.frombuffer(document.encode(), np.uint8).astype(np.int64)
