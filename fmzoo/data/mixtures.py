"""Weighted mixtures of sources."""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fmzoo.data.orders import Place, Shuffled
from fmzoo.data.permutations import permutation
from fmzoo.errors import InputError

BLOCK = 10_000  # documents in which a mixture's proportions are exact


class Mixture(Sequence[str]):
    """Several sources in given proportions of documents.

    As a sequence it is its sources one after the other, each document once. Its training order repeats blocks of
    10,000 in which every source has exactly its share (rounded to a ten-thousandth), shuffled within the block; a
    source that is used up starts its next epoch while the others go on.
    """

    def __init__(self, sources: Mapping[str, Sequence[str]], weights: Mapping[str, float]):
        """Makes the mixture.

        Args:
          sources: documents by name.
          weights: a positive number for each of these names; they need not sum to 1.

        Raises:
          InputError: names differ, a weight is not positive, or so small that its share rounds to nothing.
        """
        if not sources or set(sources) != set(weights):
            raise InputError(f"weights are for {sorted(weights)[:6]}; one for each of {sorted(sources)[:6]} is needed")
        for name, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise InputError(f"weight of {name} is {weight}; a positive number is needed")
        self.names = list(sources)
        self.parts = [sources[name] for name in self.names]
        self.shares = _shares([weights[name] for name in self.names])
        for name, share in zip(self.names, self.shares, strict=True):
            if not share:
                raise InputError(f"weight of {name} is {weights[name]}; a share of at least 1 in {BLOCK} is needed")
        self._ends = list(itertools.accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]

    def order(self, seed: int) -> "MixedOrder":
        """Returns the training order."""
        return MixedOrder(self, seed)


class MixedOrder:
    """The endless order of a mixture: blocks of slots, each slot the next document of one source."""

    def __init__(self, mixture: Mixture, seed: int):
        self._parts, self._shares, self._seed = mixture.parts, mixture.shares, seed
        self._starts = [0, *itertools.accumulate(self._shares)]
        named = zip(mixture.names, self._parts, strict=True)
        self._orders = [Shuffled(part, f"{seed}/{name}") for name, part in named]
        counts = [len(part) for part in self._parts]
        self.description: dict[str, Any] = {"documents": counts, "sources": mixture.names, "shares": self._shares}

    def locate(self, g: int) -> tuple[Place, int]:
        """Returns document number g and its source's epoch."""
        block, place = divmod(g, BLOCK)
        slot = permutation(BLOCK, f"mixture/{self._seed}/{block}")(place)
        part = bisect.bisect_right(self._starts, slot) - 1
        found, epoch = self._orders[part].locate(block * self._shares[part] + slot - self._starts[part])
        return Place(part, found.index), epoch

    def read(self, place: Place) -> str:
        """Returns the text at a place."""
        return self._parts[place.part][place.index]


def _shares(weights: Sequence[float]) -> list[int]:
    """Rounds weights to whole shares of a block by largest remainders."""
    exact = [weight / sum(weights) * BLOCK for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: BLOCK - sum(shares)]:
        shares[i] += 1
    return shares
