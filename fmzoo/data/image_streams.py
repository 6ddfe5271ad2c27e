"""R virtual streams of pictures: row r of batch b is example b R + r of the training order, whoever prepares it.

An example is a function of the pictures, the seed and its number alone: its epoch and index choose the picture by a
permutation, and key how it is cropped and flipped. So the number of the batch is all that a stream has to remember.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmzoo.data.framing import Framing
from fmzoo.data.orders import Shuffled
from fmzoo.data.pictures import Picture, Pictures
from fmzoo.data.row_iterator import Batch, example_ids
from fmzoo.errors import InputError

Tokenize = Callable[[str], Sequence[int] | np.ndarray | Mapping[str, Any]]


class Settings(NamedTuple):
    """What, beside the pictures, decides every batch."""

    batch_size: int  # R, rows of the global batch
    framing: Framing
    seed: int
    fields: tuple[str, ...]  # which of caption, label, time_ids and index are given
    tokenize: Tokenize | None


class ImageStreams:
    """The streams of a range of rows; pictures are ``uint8`` here, a quarter of what they are to the model."""

    def __init__(self, pictures: Pictures, rows: range, settings: Settings):
        self.pictures, self.rows, self.settings = pictures, rows, settings
        self.order = Shuffled(pictures, settings.seed)
        self.batch = 0

    def next(self) -> Batch:
        """Returns the next batch of these rows; after an InputError everything is where it was."""
        first = self.batch * self.settings.batch_size
        rows = [self._row(first + row) for row in self.rows]
        batch = {name: _stack(name, [row[name] for row in rows]) for name in rows[0]}
        batch["weights"] = np.ones(len(rows), np.float32)
        batch["example_id"] = example_ids(self.batch, self.settings.batch_size, self.rows)
        self.batch += 1
        return batch

    def _row(self, g: int) -> dict[str, Any]:
        settings = self.settings
        (_, index), epoch = self.order.locate(g)
        picture: Picture = self.pictures[index]
        framed = settings.framing.frame(picture.image, f"frame/{settings.seed}/{epoch}/{index}")
        row: dict[str, Any] = {"image": framed.image}
        if "caption" in settings.fields:
            row |= tokens(settings.tokenize, picture.caption)
        if "label" in settings.fields:
            row["label"] = np.int32(picture.label)
        if "time_ids" in settings.fields:
            row["time_ids"] = framed.time_ids
        if "index" in settings.fields:
            row["index"] = np.int32(index)
        return row

    def cursors(self) -> dict[str, list]:
        """Returns nothing: the number of the batch is all."""
        return {}

    def resume(self, batch: int, cursors: Mapping[str, Any]) -> None:
        """Puts every row where it was after `batch` batches."""
        del cursors
        self.batch = batch

    def part(self, rows: range) -> "ImageStreams":
        """Returns streams of some of these rows at the same place."""
        part = ImageStreams(self.pictures, rows, self.settings)
        part.batch = self.batch
        return part


def tokens(tokenize: Tokenize | None, caption: str) -> dict[str, Any]:
    """The fields of a caption: itself, or what `tokenize` makes of it, several if it gives a mapping."""
    if tokenize is None:
        return {"caption": caption}
    found = tokenize(caption)
    fields = found if isinstance(found, Mapping) else {"caption": found}
    return {name: np.asarray(value, np.int32) for name, value in fields.items()}


def _stack(name: str, values: list[Any]) -> np.ndarray:
    if len({np.shape(value) for value in values}) > 1:
        shapes = sorted({np.shape(value) for value in values})[:2]
        raise InputError(f"{name} tokens have the shapes {shapes[0]} and {shapes[1]}; tokenize must pad to one length")
    return np.stack([np.asarray(value) for value in values])
