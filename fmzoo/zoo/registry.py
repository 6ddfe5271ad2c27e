"""The register of published systems: each a config by name, with where its figures come from."""

import dataclasses
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from fmzoo.errors import InputError, nearest
from fmzoo.interop.packages import Package
from fmzoo.models import DecoderConfig

COUNTED = "parameters: counted from the shapes, equal to the released checkpoint's"  # a source that many entries have


@dataclasses.dataclass(frozen=True)
class Entry:
    """A published system in one size.

    Attributes:
      name: lower case, family with its version, then the size: ``llama2-7b``.
      system: what its makers call it.
      config: gives the config.
      parameters: the published number of parameters, which the config must reproduce.
      sources: where each figure comes from.
      public: what its makers published.
      assumed: what is this project's assumption.
      repository: the repository on the Hugging Face Hub that holds weights and tokenizer; None if there is none.
      package: a package to install that holds weights and tokenizer; None if there is none.
    """

    name: str
    system: str
    config: Callable[[], DecoderConfig] = dataclasses.field(repr=False)
    parameters: int
    sources: tuple[str, ...]
    public: str
    assumed: str
    repository: str | None
    package: Package | None = None


class Named(Protocol):
    """What has a name."""

    name: str


Item = TypeVar("Item", bound=Named)


class Register(Generic[Item]):
    """Things by name, in the order in which they came."""

    def __init__(self, kind: str):
        self._kind, self._items = kind, {}

    def add(self, item: Item) -> Item:
        """Adds one.

        Raises:
          InputError: the name is taken, or not in lower case.
        """
        if item.name in self._items or item.name != item.name.lower():
            raise InputError(f"{self._kind} {item.name!r} is taken or not in lower case; another name is needed")
        self._items[item.name] = item
        return item

    def find(self, name: str) -> Item:
        """The one of a name.

        Raises:
          InputError: there is none; the nearest names are given.
        """
        if name not in self._items:
            raise InputError(f"the zoo has no {self._kind} {name[:60]!r}; {nearest(name, self._items)}")
        return self._items[name]

    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self._items)


_ENTRIES: Register[Entry] = Register("model")
register, entry, names = _ENTRIES.add, _ENTRIES.find, _ENTRIES.names  # family by family, small to large
