"""The corpora that come with the package: Shakespeare and Milton, and the King James Bible."""

import functools
import json
import lzma
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from fmzoo.errors import InputError, nearest

CORPORA = {
    "shakespeare": ("shakespeare_milton",),
    "bible": ("king_james",),
    "classics": ("shakespeare_milton", "king_james"),
}
SPLITS = ("train", "validation", "test")


class Record(NamedTuple):
    """One document: a scene, a sonnet, a book of an epic or a chapter."""

    work: str
    title: str
    part: str
    text: str
    split: str


@functools.cache
def records(file: str) -> tuple[Record, ...]:
    """Unpacks one of the two files; they are kept, since a few megabytes are cheaper than unpacking twice."""
    packed = resources.files("fmzoo.data").joinpath(f"corpora/{file}.jsonl.xz").read_bytes()
    return tuple(Record(**json.loads(line)) for line in lzma.decompress(packed).decode().splitlines())


class EmbeddedDocuments(Sequence[str]):
    """The texts of one split of a corpus, in the order of works and parts."""

    def __init__(self, name: str, split: str = "train"):
        """Selects documents.

        Args:
          name: `shakespeare`, `bible` or `classics`.
          split: `train`, `validation`, `test` or `all`.

        Raises:
          InputError: there is no such corpus or split, or the split is empty.
        """
        if name not in CORPORA:
            raise InputError(f"corpus {name!r} is not embedded; {nearest(name, CORPORA)}")
        if split not in (*SPLITS, "all"):
            raise InputError(f"split {split!r} is not in {name}; {nearest(split, (*SPLITS, 'all'))}")
        self.name, self.split = name, split
        if not self.records:
            raise InputError(f"split {split!r} of {name} is empty: its held-out works are in shakespeare and classics")

    @functools.cached_property
    def records(self) -> tuple[Record, ...]:
        """The documents with what is known of them."""
        found = (record for file in CORPORA[self.name] for record in records(file))
        return tuple(record for record in found if self.split in ("all", record.split))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> str:
        return self.records[index].text

    def __reduce__(self):
        return type(self), (self.name, self.split)
