import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import evals, models
from fmzoo.errors import InputError
from fmzoo.evals.perplexity import _score, split_windows
from fmzoo.text import ByteTokenizer

CONFIG = models.DecoderConfig(
    vocab_size=258,
    d_model=24,
    num_layers=2,
    context_length=16,
    attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8),
    mlp=models.MlpConfig(d_ff=32),
    dtype="float64",
)


@functools.cache
def model():
    module = models.Decoder(CONFIG)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda a: jnp.asarray(2 * a, CONFIG.dtype), params)
    return models.Pretrained(module, params, CONFIG, ByteTokenizer())


@functools.cache
def forward():
    pretrained = model()  # made here, not while the function is traced
    return jax.jit(lambda tokens: jax.nn.log_softmax(pretrained.module.apply({"params": pretrained.params}, tokens)))


def brute_force(row, context, stride):
    """The same by a forward pass for each window, its own length, found by looking for the window of each token."""
    starts = range(0, max(1, len(row) - 1 - context + stride), stride)
    scores = []
    for place in range(len(row) - 1):
        start = next(s for s in starts if place < s + context)
        start = max(0, min(start, len(row) - 1 - context))
        end = min(start + context, len(row) - 1)
        scores.append(float(forward()(jnp.array([row[start:end]]))[0, place - start, row[place + 1]]))
    return scores


def words(length, seed=0):
    return np.random.default_rng(seed).integers(97, 123, length).astype(np.uint8).tobytes().decode()


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 16), (16, 1), (10, 3), (7, 5)])
def test_documents_shorter_and_longer_than_the_context(x64, context, stride):
    documents = [words(length, length) for length in (1, context - 1, context, context + 1, 41)]
    report = evals.perplexity(model(), documents, context=context, stride=stride)
    expected = [brute_force([256, *d.encode()], context, stride) for d in documents]
    assert report.nats == pytest.approx(-sum(map(sum, expected)), abs=1e-9)
    assert report.tokens == report.bytes == sum(map(len, documents))
    rows = [[256, *d.encode()] for d in documents]
    for found, wanted in zip(evals.log_probs(model(), rows, context=context, stride=stride), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def test_short_documents_need_no_window(x64):
    (document,) = [words(9)]
    logits = forward()(jnp.array([[256, *document.encode()]]))[0]
    expected = sum(float(logits[i, byte]) for i, byte in enumerate(document.encode()))
    report = evals.perplexity(model(), document)
    assert report.nats == pytest.approx(-expected, abs=1e-9)
    assert report.perplexity == pytest.approx(math.exp(-expected / 9), rel=1e-12)
    assert report.nats_per_token == pytest.approx(-expected / 9, rel=1e-12)
    assert report.bits_per_byte == pytest.approx(-expected / 9 / math.log(2), rel=1e-12)


def test_the_size_of_a_batch_changes_nothing(x64):
    documents = [words(length, length) for length in (40, 3, 17, 16, 0, 70)]
    reports = [evals.perplexity(model(), documents, stride=5, batch_size=size) for size in (1, 2, 3, 64)]
    for report in reports:
        assert (report.tokens, report.bytes) == (146, 146)
        assert report.nats == pytest.approx(reports[0].nats, abs=1e-9)
    alone = sum(evals.perplexity(model(), [d], stride=5).nats for d in documents if d)
    assert reports[0].nats == pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize("context", [1, 2, 5, 12])
@pytest.mark.parametrize("length", [0, 1, 4, 5, 6, 23])
def test_windows_score_each_token_once_with_enough_before_it(context, length):
    for stride in range(1, context + 1):
        scored = []
        for start, end, new in split_windows(length, context, stride):
            assert 0 <= start <= new < end <= length
            assert end - start == min(context, length) or end < context
            for place in range(new, end):
                scored.append(place)
                assert place - start + 1 >= min(place + 1, context - stride + 1)
        assert scored == list(range(length))


class WordTokenizer:
    """A token a word, and no special one unless it is asked for."""

    vocab_size, bos_id, eos_id, pad_id, specials = 258, None, None, None, {}

    def __init__(self, eos_id=None):
        self.eos_id = eos_id

    def encode(self, text):
        return [len(word) for word in text.split(" ") if word]

    def decode(self, ids):
        return " ".join("é" * i for i in ids)


def test_the_first_token_is_scored_after_bos_or_eos_or_not_at_all(x64):
    document = "é éé ééé éé"
    after = {}
    for eos in (None, 0):
        pretrained = dataclasses.replace(model(), tokenizer=WordTokenizer(eos))
        report = evals.perplexity(pretrained, [document])
        row = ([] if eos is None else [eos]) + [1, 2, 3, 2]
        assert report.nats == pytest.approx(-sum(brute_force(row, 16, 8)), abs=1e-9)
        after[eos] = (report.tokens, report.bytes)
    assert after == {None: (3, 17), 0: (4, 19)}


class PlainBytes(ByteTokenizer):
    """Bytes with nothing at either end of a document."""

    bos_id, eos_id, specials = None, None, {}


def test_half_a_character_counts_as_the_bytes_that_it_has(x64):
    report = evals.perplexity(dataclasses.replace(model(), tokenizer=PlainBytes()), ["éa"])
    assert (report.tokens, report.bytes) == (2, 2)


def test_a_perplexity_beyond_all_numbers_is_infinite():
    assert evals.Report(nats=800.0, tokens=1, bytes=1).perplexity == float("inf")


def test_token_documents(x64):
    text, ids = evals.perplexity(model(), ["Größe"]), evals.perplexity(model(), [list("Größe".encode())])
    assert text == ids
    assert text.bytes == 7
    bare = dataclasses.replace(model(), tokenizer=None)
    report = evals.perplexity(bare, [np.array([256, *"Größe".encode()])])
    assert report.nats == pytest.approx(text.nats, abs=1e-9)
    assert (report.bytes, report.bits_per_byte) == (None, None)


def test_other_documents_compile_nothing_anew(x64):
    evals.perplexity(model(), [words(40)], stride=4)
    size = _score._cache_size()
    evals.perplexity(model(), [words(90), words(3)], stride=8)
    assert _score._cache_size() == size


@pytest.mark.parametrize(
    ("documents", "options", "sentence"),
    [
        ([], {}, "0 documents hold no token"),
        ([""], {}, "1 documents hold no token"),
        ([[1, 258]], {}, "token 258; tokens from 0 to 257"),
        (["a"], {"context": 17}, "context is 17; a number from 1 to 16"),
        (["a"], {"context": 0}, "context is 0"),
        (["a"], {"stride": 17}, "stride is 17; a number from 1 to 16"),
        (["a"], {"stride": 0}, "stride is 0"),
        (["a"], {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_refuses(x64, documents, options, sentence):
    with pytest.raises(InputError, match=sentence):
        evals.perplexity(model(), documents, **options)


def test_refuses_text_without_a_tokenizer(x64):
    with pytest.raises(InputError, match="no tokenizer"):
        evals.perplexity(dataclasses.replace(model(), tokenizer=None), ["a"])
