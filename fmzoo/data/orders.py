"""Orders of documents: which document is number g of the whole training run?

The answer depends on g and the seed alone, so that any host, stream or worker can ask it about any g.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fmzoo.data.permutations import permutation


class Place(NamedTuple):
    """Where a document stands: in which source, and where there."""

    part: int
    index: int


class Order(Protocol):
    """An endless order of documents.

    Attributes:
      description: what two orders must share to be the same, apart from the texts: values that JSON can hold.
    """

    description: dict[str, Any]

    def locate(self, g: int) -> tuple[Place, int]:
        """Returns document number g and how often its source was used up before."""

    def read(self, place: Place) -> str:
        """Returns the text at a place."""


class Shuffled:
    """All documents in a new permutation each epoch."""

    def __init__(self, documents: Sequence[str], seed: int | str):
        self._documents, self._seed, self._count = documents, seed, len(documents)
        self.description: dict[str, Any] = {"documents": self._count}

    def locate(self, g: int) -> tuple[Place, int]:
        """Returns document number g and its epoch."""
        epoch, place = divmod(g, self._count)
        return Place(0, permutation(self._count, f"documents/{self._seed}/{epoch}")(place)), epoch

    def read(self, place: Place) -> str:
        """Returns the text at a place."""
        return self._documents[place.index]


def order_of(documents: Sequence[str], seed: int) -> Order:
    """Returns the order that a mixture has of its own, or any other sequence shuffled."""
    return documents.order(seed) if hasattr(documents, "order") else Shuffled(documents, seed)
