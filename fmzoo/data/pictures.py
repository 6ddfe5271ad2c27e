"""What a picture is, and how bytes from anywhere become one: bounded, still, on white, eight bits a channel."""

import io
import warnings
from typing import Any, NamedTuple, Protocol

import numpy as np

from fmzoo.errors import InputError

MAX_PIXELS = 2**26  # of one picture, read from its header before anything is decoded
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


class Picture(NamedTuple):
    """One example."""

    image: np.ndarray  # uint8[H, W, C], C 1 or 3
    caption: str = ""
    label: int = -1  # -1: none


class Pictures(Protocol):
    """Pictures by random access, decoded when asked for.

    Attributes:
      classes: the names of the labels; empty if pictures have none.
    """

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Picture: ...


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a still picture, turned as its camera was held and laid on white where it is transparent.

    Args:
      data: PNG, JPEG, WebP, BMP or GIF.
      name: what to call it in an error.
      max_pixels: a header that promises more is refused before anything is decoded.

    Returns:
      ``uint8[H, W, 1]`` if it is grey, else ``uint8[H, W, 3]``.

    Raises:
      InputError: it is damaged, cut off, animated, too large or of another format.
    """
    from PIL import Image

    name = name if len(name) <= 120 else "..." + name[-117:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow only warns of is refused here or harmless
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check(image, name, max_pixels)
                return _pixels(image, name)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"image {name} has too many pixels; at most {max_pixels} are accepted") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"image {name} is damaged or of another format; {', '.join(FORMATS)} are accepted") from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything for damaged data
        reason = str(error).split("\n")[0][:80] or type(error).__name__
        raise InputError(f"image {name} is damaged ({reason}); a whole picture is needed") from None


def encode(image: np.ndarray) -> bytes:
    """A picture ``uint8[H, W, C]`` as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


def _check(image: Any, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(f"image {name} has {width} x {height} pixels; at most {max_pixels} are accepted")
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo with previews behind it
        raise InputError(f"image {name} is animated; a still picture is needed")


def _pixels(image: Any, name: str) -> np.ndarray:
    from PIL import Image, ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    if image.mode in ("I", "F"):
        raise InputError(f"image {name} has 32 bits a channel; 8 or 16 are accepted")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    grey = image.mode in ("1", "L")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels
