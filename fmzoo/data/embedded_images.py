"""The pictures that come with the package: two sets of handwritten digits, and emoji with their names."""

import functools
import json
import lzma
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from fmzoo.data.embedded import SPLITS
from fmzoo.data.pictures import Picture, decode
from fmzoo.errors import InputError, nearest

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# fmt: off
GROUPS = ("smileys-emotion", "people-body", "component", "animals-nature", "food-drink", "travel-places", "activities",
          "objects", "symbols", "flags")
# fmt: on
SHEETS = {"digits": ("digits.png", 8), "mnist": ("mnist5k.png", 28), "emoji": ("emoji.webp", 32)}  # file, side
CLASSES = {"digits": DIGITS, "mnist": DIGITS, "emoji": GROUPS}


@functools.cache
def records(name: str) -> tuple[dict[str, Any], ...]:
    """What is known of each picture of a set: `caption`, `label`, `split`; of emoji also `object` and `tone`."""
    packed = _read(SHEETS[name][0].split(".")[0] + ".jsonl.xz")
    return tuple(json.loads(line) for line in lzma.decompress(packed).decode().splitlines())


@functools.cache
def tiles(name: str) -> np.ndarray:
    """All pictures of a set, ``uint8[N, H, W, C]``, not to be written to."""
    file, side = SHEETS[name]
    sheet = decode(_read(file), file)
    rows, columns = sheet.shape[0] // side, sheet.shape[1] // side
    cut = sheet.reshape(rows, side, columns, side, -1).swapaxes(1, 2).reshape(rows * columns, side, side, -1)
    cut = cut[: len(records(name))]
    cut.flags.writeable = False
    return cut


class EmbeddedImages(Sequence[Picture]):
    """One split of a set, in the set's order."""

    def __init__(self, name: str, split: str = "train"):
        """Selects pictures.

        Args:
          name: `digits` (1,797 of 8 x 8), `mnist` (5,000 of 28 x 28) or `emoji` (3,375 of 32 x 32, in colour).
          split: `train`, `validation`, `test` or `all`. The `test` of emoji is 64 pairs of an object and a skin tone
            that are not in `train`, though each object and each tone is.

        Raises:
          InputError: there is no such set or split.
        """
        if name not in SHEETS:
            raise InputError(f"image set {name!r} is not embedded; {nearest(name, SHEETS)}")
        if split not in (*SPLITS, "all"):
            raise InputError(f"split {split!r} is not in {name}; {nearest(split, (*SPLITS, 'all'))}")
        self.name, self.split, self.classes = name, split, CLASSES[name]

    @functools.cached_property
    def indices(self) -> tuple[int, ...]:
        """Which pictures of the set these are."""
        return tuple(i for i, record in enumerate(records(self.name)) if self.split in ("all", record["split"]))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Picture:
        record = records(self.name)[self.indices[index]]
        return Picture(tiles(self.name)[self.indices[index]], record["caption"], record["label"])

    def __reduce__(self):
        return type(self), (self.name, self.split)


def _read(file: str) -> bytes:
    return resources.files("fmzoo.data").joinpath(f"images/{file}").read_bytes()
