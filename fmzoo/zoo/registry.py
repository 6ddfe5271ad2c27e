"""The register of published systems: each a config by name, with where its figures come from."""

import dataclasses
from collections.abc import Callable

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


_ENTRIES: dict[str, Entry] = {}


def register(entry: Entry) -> Entry:
    """Adds a system to the zoo.

    Raises:
      InputError: the name is taken, or not in lower case.
    """
    if entry.name in _ENTRIES or entry.name != entry.name.lower():
        raise InputError(f"zoo entry {entry.name!r} is taken or not in lower case; another name is needed")
    _ENTRIES[entry.name] = entry
    return entry


def entry(name: str) -> Entry:
    """The system of a name.

    Raises:
      InputError: there is none; the nearest names are given.
    """
    if name not in _ENTRIES:
        raise InputError(f"the zoo has no {name[:60]!r}; {nearest(name, _ENTRIES)}")
    return _ENTRIES[name]


def names() -> tuple[str, ...]:
    """All names, family by family, small to large."""
    return tuple(_ENTRIES)
