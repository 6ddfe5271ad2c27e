"""The levels to get below: the same information per byte and per token, whatever predicts it."""

import math

import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.evals import KneserNey
from fmzoo.stages.ngrams import kneser_ney_levels
from fmzoo.text import ByteTokenizer, train_bpe

LEARNED = [
    f"the {a} of the {b} and the {c}" for a in ("cat", "dog") for b in ("sea", "sun", "king") for c in ("end", "cat")
]
HELD_OUT = ["the king of the sea", "a dog of the König"]


def levels(tokenizer, **orders):
    return {level.name: level for level in kneser_ney_levels(tokenizer, LEARNED, HELD_OUT, **orders)}


def test_names_and_order():
    names = list(levels(train_bpe(LEARNED, 280)))
    assert names == [
        *(f"Kneser-Ney, order {order} over tokens" for order in (2, 3, 5)),
        "Kneser-Ney, order 5 over bytes",
    ]


def test_bits_are_those_of_the_tuned_model():
    tokenizer = train_bpe(LEARNED, 280)
    model = KneserNey.tune([tokenizer.encode(text) for text in LEARNED], tokenizer.vocab_size, 3)
    tokens = [tokenizer.encode(text) for text in HELD_OUT]
    nats = -sum(model.log_probs(document).sum() for document in tokens)
    found = levels(tokenizer, token_orders=[3], byte_order=None)["Kneser-Ney, order 3 over tokens"]
    np.testing.assert_allclose(found.nats_per_token, nats / sum(map(len, tokens)), rtol=1e-12)
    size = sum(len(text.encode()) for text in HELD_OUT)
    np.testing.assert_allclose(found.bits_per_byte, nats / math.log(2) / size, rtol=1e-12)


def test_bytes_by_way_of_a_byte_tokenizer_differ_only_in_the_unused_tokens():
    by_tokens, by_bytes = levels(ByteTokenizer(), token_orders=[2], byte_order=2).values()
    assert by_bytes.bits_per_byte < by_tokens.bits_per_byte  # which leaves some probability to bos and eos
    np.testing.assert_allclose(by_bytes.bits_per_byte, by_tokens.bits_per_byte, rtol=0.01)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(InputError):
        list(kneser_ney_levels(ByteTokenizer(), [""], HELD_OUT))
