"""Proportions are exact in a block, every document of a source comes once an epoch, and nothing depends on history."""

import collections

import pytest

from fmzoo.data import Mixture
from fmzoo.data.mixtures import BLOCK
from fmzoo.data.orders import Shuffled
from fmzoo.errors import InputError

SMALL, LARGE = [f"s{i}" for i in range(7)], [f"l{i}" for i in range(9000)]


def test_proportions_are_exact_in_every_block():
    order = Mixture({"small": SMALL, "large": LARGE}, {"small": 1, "large": 3}).order(seed=0)
    for block in (0, 2):
        places = [order.locate(g)[0] for g in range(block * BLOCK, (block + 1) * BLOCK)]
        assert collections.Counter(place.part for place in places) == {0: 2500, 1: 7500}


def test_every_document_comes_once_an_epoch():
    order = Mixture({"small": SMALL, "large": LARGE}, {"small": 1, "large": 3}).order(seed=0)
    epochs = collections.defaultdict(collections.Counter)
    for g in range(2 * BLOCK):
        place, epoch = order.locate(g)
        epochs[place.part, epoch][order.read(place)] += 1
    assert epochs[0, 0] == epochs[0, 600] == collections.Counter(SMALL)
    assert epochs[1, 0] == collections.Counter(LARGE)


def test_a_short_stretch_is_mixed_too():
    order = Mixture({"small": SMALL, "large": LARGE}, {"small": 1, "large": 1}).order(seed=3)
    parts = [order.locate(g)[0].part for g in range(0, 1600, 8)]  # what one of eight streams sees
    assert 70 < sum(parts) < 130


def test_seeds_and_epochs_differ():
    orders = [Shuffled(LARGE, seed) for seed in (0, 1)]
    heads = [[order.locate(g)[0].index for g in range(50)] for order in orders]
    heads.append([orders[0].locate(9000 + g)[0].index for g in range(50)])
    assert len({tuple(head) for head in heads}) == 3
    assert heads[0] == [Shuffled(LARGE, 0).locate(g)[0].index for g in range(50)]


def test_as_a_sequence_it_has_every_document_once():
    mixture = Mixture({"a": ["x", "y"], "b": ["z"]}, {"a": 1, "b": 9})
    assert list(mixture) == ["x", "y", "z"]
    with pytest.raises(IndexError):
        mixture[3]


def test_shares_are_rounded_to_the_block():
    assert Mixture(dict.fromkeys("abc", ["x"]), dict.fromkeys("abc", 1)).shares == [3334, 3333, 3333]


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"a": 1}, "one for each of"),
        ({"a": 1, "b": 0}, "weight of b is 0; a positive number"),
        ({"a": 1, "b": float("nan")}, "weight of b is nan; a positive number"),
        ({"a": 1, "b": 1e-9}, "weight of b is 1e-09; a share of at least 1 in 10000"),
    ],
)
def test_bad_weights(weights, sentence):
    with pytest.raises(InputError, match=sentence):
        Mixture({"a": ["x"], "b": ["y"]}, weights)
