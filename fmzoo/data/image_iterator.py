"""The iterator of batches of pictures."""

import hashlib
from collections.abc import Sequence

import numpy as np

from fmzoo.data.framing import Framing
from fmzoo.data.image_streams import ImageStreams, Settings, Tokenize, tokens
from fmzoo.data.pictures import Pictures
from fmzoo.data.row_iterator import Batch, RowIterator, check_rows
from fmzoo.errors import InputError, nearest

FIELDS = ("caption", "label", "time_ids", "index")


class ImageIterator(RowIterator):
    """Batches of this host's rows of pictures, without end, each epoch in a new order.

    A batch is `image float32[B, H, W, C]` in [-1, 1], `weights float32[B]` (1), `example_id int32[B]` (the row's number
    in the global stream, wrapping at 2**31), and of these those chosen: `caption` (texts or tokens), `label int32[B]`,
    `time_ids float32[B, 6]` (original height and width, top and left of the crop, H and W, as Stable Diffusion XL is
    conditioned), `index int32[B]` (of the picture in its set). B is the number of rows owned. Order, crops and flips
    are the same however many hosts own the rows and however many workers prepare them.
    """

    def __init__(
        self,
        pictures: Pictures,
        framing: Framing,
        *,
        batch_size: int,
        rows: range | None = None,
        seed: int = 0,
        fields: Sequence[str] = ("caption",),
        tokenize: Tokenize | None = None,
        workers: int = 0,
    ):
        """Starts at the first batch.

        Args:
          pictures: what `images` returns, or any such sequence.
          framing: the size of images, and how they are cropped and flipped.
          batch_size: R, rows of the global batch.
          rows: the rows that this host owns; all by default.
          seed: chooses the order, the crops and the flips.
          fields: what is given beside the image: any of `caption`, `label`, `time_ids` and `index`.
          tokenize: a caption to token ids of one length, or to several such fields `{name: ids}`; None leaves texts.
          workers: Grain processes that decode and prepare batches ahead; 0 prepares them here. Each starts a Python of
            its own, so a script needs its `if __name__ == "__main__":`, and `tokenize` must be picklable.

        Raises:
          InputError: an argument is out of range, there is no picture, or there are no labels to give.
        """
        rows = range(batch_size) if rows is None else rows
        check_rows(batch_size, rows, workers)
        _check_fields(pictures, fields)
        streams = ImageStreams(pictures, rows, Settings(batch_size, framing, seed, tuple(fields), tokenize))
        frame = {name: getattr(framing, name) for name in ("height", "width", "channels", "crop", "flip")}
        identity = {"batch_size": batch_size, "seed": seed, "images": len(pictures), **frame}
        super().__init__(streams, batch_size, identity | {"digest": _digest(pictures, tokenize)}, workers)

    def __next__(self) -> Batch:
        batch = super().__next__()
        return batch | {"image": batch["image"].astype(np.float32) / np.float32(127.5) - np.float32(1)}


def _check_fields(pictures: Pictures, fields: Sequence[str]) -> None:
    if not len(pictures):
        raise InputError("there is no image; at least one is needed")
    for field in fields:
        if field not in FIELDS:
            raise InputError(f"field {field!r} of image batches is unknown; {nearest(field, FIELDS)}")
    if "label" in fields and not pictures.classes:
        raise InputError("field 'label' is asked for and the images have no classes; captions may be used")


def _digest(pictures: Pictures, tokenize: Tokenize | None) -> str:
    """Recognises pictures, captions and tokenizer by the first and the last example."""
    digest = hashlib.sha256()
    for index in (0, len(pictures) - 1):
        picture = pictures[index]
        digest.update(picture.image.tobytes())
        digest.update(
            repr([(name, np.array(v).tolist()) for name, v in tokens(tokenize, picture.caption).items()]).encode()
        )
    return digest.hexdigest()[:16]
