"""From a picture of any size to the size that is trained on: resize, crop, flip, by draws that a name decides."""

import dataclasses
import hashlib
from typing import Literal, NamedTuple

import numpy as np

from fmzoo.errors import InputError


class Framed(NamedTuple):
    """A picture of the trained size, and where it was cut from."""

    image: np.ndarray  # uint8[H, W, C]
    time_ids: np.ndarray  # float32[6]: original height and width, crop's top and left, H and W


@dataclasses.dataclass(frozen=True)
class Framing:
    """How pictures are brought to one size.

    A picture is resized, its proportions kept, until it just covers the size, and what hangs over is cropped. It is
    flipped before it is cropped, so that crop coordinates are those of the picture shown (arXiv 2307.01952, 2.2).

    Attributes:
      height: H.
      width: W.
      channels: C; grey pictures become colour and the other way round.
      crop: `centre`, or `random` for another place each epoch.
      flip: the probability of a horizontal flip.
      divisor: H and W must be multiples of it, such as an autoencoder's factor.
    """

    height: int
    width: int
    channels: Literal[1, 3] = 3
    crop: Literal["centre", "random"] = "centre"
    flip: float = 0.0
    divisor: int = 1

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for field in ("height", "width"):
            value = getattr(self, field)
            if value < 1 or value % self.divisor:
                raise InputError(f"image {field} is {value}; a multiple of {self.divisor} above 0 is needed")
        if self.channels not in (1, 3):
            raise InputError(f"image channels are {self.channels}; 1 or 3 are needed")
        if self.crop not in ("centre", "random"):
            raise InputError(f"image crop is {self.crop!r}; centre or random is needed")
        if not 0 <= self.flip <= 1:
            raise InputError(f"image flip is {self.flip}; a probability from 0 to 1 is needed")

    def frame(self, image: np.ndarray, name: str) -> Framed:
        """Brings a picture ``uint8[h, w, 1 or 3]`` to size; the same name always gives the same crop and flip."""
        top, left, flip = _draws(name, 3)
        original = image.shape[:2]
        image = _cover(_in_channels(image, self.channels), self.height, self.width)
        if flip < self.flip:
            image = image[:, ::-1]
        spare = image.shape[0] - self.height, image.shape[1] - self.width
        if self.crop == "random":
            y, x = int(top * (spare[0] + 1)), int(left * (spare[1] + 1))
        else:
            y, x = spare[0] // 2, spare[1] // 2
        image = np.ascontiguousarray(image[y : y + self.height, x : x + self.width])
        return Framed(image, np.array([*original, y, x, self.height, self.width], np.float32))


def _in_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    luma = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return np.rint(luma).astype(np.uint8)[..., None]


def _cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes until the shorter side fits, with the filter's support widened when it shrinks."""
    from PIL import Image

    h, w = image.shape[:2]
    scale = max(height / h, width / w)
    size = max(width, round(w * scale)), max(height, round(h * scale))
    if size == (w, h):
        return image
    grey = image.shape[-1] == 1
    resized = Image.fromarray(image[..., 0] if grey else image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized)[..., None] if grey else np.asarray(resized)


def _draws(name: str, count: int) -> list[float]:
    """Numbers in ``[0, 1)`` that look random; by SHA-256, so that they are the same on every machine."""
    digest = hashlib.sha256(name.encode()).digest()
    return [(int.from_bytes(digest[8 * i : 8 * i + 8], "little") >> 11) / 2**53 for i in range(count)]
