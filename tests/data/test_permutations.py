"""The computed permutation is one, for every size, and stays the one it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo.data.permutations import Permutation


@given(count=st.integers(1, 700), name=st.text(max_size=8))
@settings(deadline=None, max_examples=60)
def test_is_a_bijection(count, name):
    permutation = Permutation(count, name)
    assert sorted(map(permutation, range(count))) == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 4096, 4097])
def test_is_a_bijection_at_powers_of_two(count):
    assert len(set(map(Permutation(count, "x"), range(count)))) == count


def test_large_counts_stay_in_range():
    permutation = Permutation(2**40 + 1, "x")
    images = {permutation(i) for i in range(1000)}
    assert len(images) == 1000
    assert all(0 <= i <= 2**40 for i in images)


def test_is_the_same_in_every_version():
    assert [Permutation(10, "documents/0/0")(i) for i in range(10)] == [8, 2, 4, 0, 7, 6, 5, 1, 3, 9]


def test_names_give_unrelated_permutations():
    first, second = (np.array([Permutation(1000, name)(i) for i in range(1000)]) for name in "ab")
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1
    assert np.sum(first == second) < 10


def test_looks_uniform():
    images = np.array([[Permutation(8, f"{name}")(i) for i in range(8)] for name in range(2000)])
    counts = np.array([np.bincount(column, minlength=8) for column in images.T])
    chi_squared = np.sum((counts - 250) ** 2 / 250)
    assert chi_squared < 100  # 49 degrees of freedom: beyond 85 once in a thousand


@pytest.mark.parametrize("index", [-1, 3])
def test_outside_is_refused(index):
    with pytest.raises(IndexError, match="outside range"):
        Permutation(3, "x")(index)
