"""A pseudo-random permutation of 0 ... n - 1 that is computed, not stored.

A Feistel network permutes the 2k-bit numbers whatever its round function is; walking along its cycles until the result
is below n permutes 0 ... n - 1 (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). 2k is the least even
number of bits that holds n - 1, so that a walk takes at most four steps on average. Only integer arithmetic and SHA-256
are used: the order is the same on every machine and in every version of every library.
"""

import functools
import hashlib

ROUNDS = 6
_MASK = 2**64 - 1


class Permutation:
    """A bijection of `range(count)` chosen by a name."""

    def __init__(self, count: int, name: str):
        """Makes the permutation; the same count and name always give the same one."""
        self.count = count
        self._bits = max((count - 1).bit_length() + 1, 2) // 2
        digests = [hashlib.sha256(f"{name}/{i}".encode()).digest() for i in range(ROUNDS)]
        self._keys = [int.from_bytes(digest[:8], "little") for digest in digests]

    def __call__(self, index: int) -> int:
        """Returns where `index` goes; IndexError outside `range(count)`."""
        if not 0 <= index < self.count:
            raise IndexError(f"{index} is outside range({self.count})")
        index = self._encrypt(index)
        while index >= self.count:
            index = self._encrypt(index)
        return index

    def _encrypt(self, value: int) -> int:
        bits, half = self._bits, (1 << self._bits) - 1
        left, right = value >> bits, value & half
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & half)
        return left << bits | right


@functools.lru_cache(maxsize=256)
def permutation(count: int, name: str) -> Permutation:
    """Returns a permutation, kept while it is in use, since its keys cost more than a look-up."""
    return Permutation(count, name)


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
