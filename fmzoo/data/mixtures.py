"""Orders of documents: one source shuffled anew each epoch, or several sources mixed by weight.

An order answers one question: which text is document number g of the whole training run? It depends on g and the seed
alone, so any host, stream or worker can ask it about any g.
"""

import bisect
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

from fmzoo.data.permutations import Permutation
from fmzoo.errors import InputError

Order = Callable[[int], str]
BLOCK = 10_000  # documents in which a mixture's proportions are exact


def shuffled(documents: Sequence[str], seed: int) -> Order:
    """Returns the order that goes through all documents, each epoch in another permutation."""
    count = len(documents)
    permutation = functools.lru_cache(maxsize=2)(lambda epoch: Permutation(count, f"documents/{seed}/{epoch}"))
    return lambda g: documents[permutation(g // count)(g % count)]


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

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> str:
        ends = list(itertools.accumulate(map(len, self.parts)))
        if not 0 <= index < ends[-1]:
            raise IndexError(index)
        part = bisect.bisect_right(ends, index)
        return self.parts[part][index - (ends[part - 1] if part else 0)]

    def order(self, seed: int) -> Order:
        """Returns the training order."""
        starts = [0, *itertools.accumulate(self.shares)]
        orders = [shuffled(part, f"{seed}/{name}") for name, part in zip(self.names, self.parts, strict=True)]
        schedule = functools.lru_cache(maxsize=2)(lambda block: Permutation(BLOCK, f"mixture/{seed}/{block}"))

        def text(g: int) -> str:
            block, place = divmod(g, BLOCK)
            slot = schedule(block)(place)
            part = bisect.bisect_right(starts, slot) - 1
            return orders[part](block * self.shares[part] + slot - starts[part])

        return text


def _shares(weights: Sequence[float]) -> list[int]:
    """Rounds weights to whole shares of a block by largest remainders."""
    exact = [weight / sum(weights) * BLOCK for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: BLOCK - sum(shares)]:
        shares[i] += 1
    return shares


def order_of(documents: Sequence[str], seed: int) -> Order:
    """Returns a mixture's own order, or any other sequence shuffled anew each epoch."""
    return documents.order(seed) if isinstance(documents, Mixture) else shuffled(documents, seed)
