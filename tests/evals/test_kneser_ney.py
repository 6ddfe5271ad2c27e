import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.evals.discounts import estimate_discounts
from fmzoo.evals.kneser_ney import KneserNey

BEGIN = "begin"


class Reference:
    """The same model with dictionaries and strings of tokens, written from the definitions."""

    def __init__(self, documents, vocab_size, order, discounts):
        self.vocab_size, self.order, self.discounts = vocab_size, order, discounts
        raw = [Counter() for _ in range(order + 1)]
        before = [defaultdict(set) for _ in range(order + 1)]
        for document in documents:
            marked = [BEGIN, *document]
            for end in range(1, len(marked)):
                for k in range(1, min(order, end + 1) + 1):
                    gram = tuple(marked[end - k + 1 : end + 1])
                    raw[k][gram] += 1
                    if end - k >= 0:
                        before[k][gram].add(marked[end - k])
        self.counts = [None]
        for k in range(1, order + 1):
            exact = {g: c for g, c in raw[k].items() if k == order or g[0] == BEGIN}
            self.counts.append({**{g: len(left) for g, left in before[k].items()}, **exact})

    def probability(self, context, token, k=None):
        k = min(self.order, len(context) + 1) if k is None else k
        if k == 0:
            return 1 / self.vocab_size
        context = tuple(context[len(context) - k + 1 :])
        after = {g[-1]: c for g, c in self.counts[k].items() if g[:-1] == context}
        below = self.probability(context[1:], token, k - 1)
        total = sum(after.values())
        if not total:
            return below
        taken = {w: self.discounts[k - 1][min(c, 3) - 1] for w, c in after.items()}
        own = after.get(token, 0) - taken.get(token, 0)
        return (own + sum(taken.values()) * below) / total

    def log_probs(self, document):
        marked = [BEGIN, *document]
        return [math.log(self.probability(marked[:i], marked[i])) for i in range(1, len(marked))]


def random_documents(seed, vocab_size, lengths):
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab_size + 1)
    return [rng.choice(vocab_size, size=n, p=weights / weights.sum()).tolist() for n in lengths]


def random_discounts(seed, order):
    return np.random.default_rng(seed).uniform(0.05, 1, (order, 3)) * [1, 2, 3]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_agrees_with_dictionaries(order):
    vocab_size, discounts = 7, random_discounts(order, order)
    documents = random_documents(0, vocab_size - 1, [60, 1, 45, 0, 2, 80, 3])  # the last token is never seen
    unseen = [*random_documents(1, vocab_size, [50, 1, 2, 0]), [6, 6, 0, 6]]
    model = KneserNey.fit(documents, vocab_size, order, discounts=discounts)
    reference = Reference(documents, vocab_size, order, discounts)
    for document in unseen + documents:
        np.testing.assert_allclose(model.log_probs(document), reference.log_probs(document), rtol=0, atol=1e-9)


def test_documents_shorter_than_the_order():
    documents, discounts = [[0, 1], [1]], random_discounts(3, 5)
    model, reference = KneserNey.fit(documents, 3, 5, discounts=discounts), Reference(documents, 3, 5, discounts)
    np.testing.assert_allclose(model.log_probs([0, 1, 2]), reference.log_probs([0, 1, 2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_sum_to_one(order):
    vocab_size = 11
    documents = random_documents(2, vocab_size - 2, [200, 150, 3])
    contexts = [*random_documents(3, vocab_size, [0, 1, 2, 3, 4, 7]), [10, 10, 10], documents[0][:9], [9, 0]]
    for model in (KneserNey.fit(documents, vocab_size, order), KneserNey.tune(documents, vocab_size, order)):
        for context in contexts:
            ends = [model.log_probs([*context, w])[-1] for w in range(vocab_size)]
            assert np.exp(ends).sum() == pytest.approx(1, abs=1e-12)
            assert np.isfinite(ends).all()


def test_by_hand():
    # "a b a b a c", a = 0, b = 1, c = 2 of a vocabulary of 4; discounts 1/2, 1, 3/2 at both orders.
    # Bigrams: begin-a 1, ab 2, ba 2, ac 1. Before a: {begin, b}, before b: {a}, before c: {a}; 4 kinds in all.
    # Single tokens: gamma = (1 + 1/2 + 1/2) / 4 = 1/2, so p(a) = (2 - 1) / 4 + 1/8 = 3/8,
    # p(b) = p(c) = (1 - 1/2) / 4 + 1/8 = 1/4 and p(d) = 1/8: together 1.
    # After a: 3 tokens, gamma = (1 + 1/2) / 3 = 1/2: p(b|a) = (2 - 1) / 3 + 1/8 = 11/24, p(c|a) = 1/6 + 1/8 = 7/24.
    # After b: 2 tokens, gamma = 1/2: p(a|b) = 1/2 + 3/16 = 11/16. After the beginning: 1/2 + 1/2 * 3/8 = 11/16.
    # After c nothing was seen: p(d|c) = p(d) = 1/8.
    model = KneserNey.fit([[0, 1, 0, 1, 0, 2]], 4, 2, discounts=[[0.5, 1, 1.5]] * 2)
    expected = [11 / 16, 11 / 24, 11 / 16, 7 / 24, 1 / 8]
    np.testing.assert_allclose(np.exp(model.log_probs([0, 1, 0, 2, 3])), expected, rtol=1e-12)
    assert model.bits([[0, 1], [0]]) == pytest.approx(-math.log2(11 / 16 * 11 / 24 * 11 / 16), rel=1e-12)


def test_estimated_discounts_are_the_published_formula():
    counts = np.repeat([1, 2, 3, 4, 9], [100, 40, 20, 12, 5])
    y = 100 / 180
    expected = [1 - 2 * y * 40 / 100, 2 - 3 * y * 20 / 40, 3 - 4 * y * 12 / 20]
    np.testing.assert_allclose(estimate_discounts(counts), expected, rtol=1e-12)
    np.testing.assert_array_equal(estimate_discounts(np.array([5, 6])), [0.5, 1, 1.5])


def markov_documents(seed, lengths, vocab_size=40):
    table = np.random.default_rng(7).dirichlet(np.full(vocab_size, 0.05), size=(vocab_size, vocab_size)).cumsum(-1)
    rng = np.random.default_rng(seed)

    def walk(length):
        tokens = [0, 0]
        for draw in rng.random(length):
            tokens.append(min(int(np.searchsorted(table[tokens[-2], tokens[-1]], draw)), vocab_size - 1))
        return tokens[2:]

    return [walk(n) for n in lengths]


def test_tuning_reaches_the_best_discounts_and_helps_on_new_text():
    train, test = markov_documents(0, [400] * 20), markov_documents(1, [3000])
    estimated, tuned = KneserNey.fit(train, 40, 4), KneserNey.tune(train, 40, 4)
    assert tuned.bits(test) < estimated.bits(test)
    kept, held_out = [d for i, d in enumerate(train) if i % 10 != 9], train[9::10]
    best = KneserNey.fit(kept, 40, 4, discounts=tuned.discounts).bits(held_out)
    for place in np.ndindex(4, 3):
        for change in (-0.02, 0.02):
            other = tuned.discounts.copy()
            other[place] = np.clip(other[place] + change, 1e-3 * (place[1] + 1), place[1] + 1)
            assert KneserNey.fit(kept, 40, 4, discounts=other).bits(held_out) >= best - 1e-3


def test_tuning_listens_to_the_documents_that_it_is_given():
    # Two kinds of documents; the discounts tuned on one kind predict that kind better than those tuned on the other.
    train = markov_documents(0, [400] * 12) + random_documents(5, 40, [400] * 12)
    test = markov_documents(1, [2000])
    own = KneserNey.tune(train, 40, 3, held_out=range(9, 12))
    other = KneserNey.tune(train, 40, 3, held_out=range(21, 24))
    assert own.bits(test) < other.bits(test)


def test_tuning_holds_out_the_end_of_an_only_document():
    (document,) = markov_documents(0, [3000])
    assert KneserNey.tune([document], 40, 3).bits(markov_documents(1, [1000])) < 1000 * math.log2(40)


def test_longer_contexts_find_the_structure():
    train, test = markov_documents(0, [20000]), markov_documents(1, [3000])
    uniform, unigram, bigram, trigram = [3000 * math.log2(40)] + [
        KneserNey.fit(train, 40, k).bits(test) for k in (1, 2, 3)
    ]
    assert trigram < 0.8 * bigram < bigram < unigram < uniform


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([[0, 9]], 5, 2), "token 9; tokens from 0 to 4"),
        (([[-1]], 5, 2), "token -1"),
        (([[]], 5, 2), "no token"),
        (([], 5, 2), "no token"),
        (([[1]], 5, 0), "order is 0"),
    ],
)
def test_refuses(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        KneserNey.fit(*arguments)


def test_refuses_a_token_out_of_range_when_scoring():
    with pytest.raises(InputError, match="token 5"):
        KneserNey.fit([[1, 2]], 5, 2).log_probs([5])


@pytest.mark.parametrize(("documents", "held_out"), [([[1, 2], []], [1]), ([[1, 2], [3]], [0, 1]), ([[1]], [])])
def test_refuses_to_tune_on_nothing(documents, held_out):
    with pytest.raises(InputError, match="hold no token"):
        KneserNey.tune(documents, 5, 2, held_out=held_out)


def test_refuses_discounts_that_leave_nothing():
    with pytest.raises(InputError, match="above 0"):
        KneserNey.fit([[1, 2]], 5, 2, discounts=np.zeros((2, 3)))
