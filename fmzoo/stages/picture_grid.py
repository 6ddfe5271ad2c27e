"""Pictures side by side in one PNG, with the settings that made them in its metadata."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

GAP = 2  # pixels of white between two pictures


def grid(pictures: np.ndarray, columns: int | None = None, zoom: int = 1) -> np.ndarray:
    """Pictures ``uint8 [B, H, W, 3]`` in reading order on white, ``uint8 [rows, columns, 3]`` in pixels.

    Args:
      pictures: to show.
      columns: None makes the grid about square.
      zoom: each pixel becomes so many, in both directions.
    """
    pictures = pictures.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width, _ = pictures.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        y, x = (n * (side + GAP) + GAP for n, side in zip(divmod(place, columns), (height, width), strict=True))
        sheet[y : y + height, x : x + width] = picture
    return sheet


def zoom_for(side: int, shown: int = 96) -> int:
    """By how much to enlarge small pictures so that they can be seen."""
    return max(shown // side, 1)


def write_png(path: epath.PathLike, picture: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes ``uint8 [H, W, 3]``, completely or not at all, to any file system.

    Args:
      path: of the file.
      picture: to write.
      metadata: becomes text chunks of the PNG.
    """
    from PIL import Image, PngImagePlugin

    from fmzoo.train.locations import locate

    info = PngImagePlugin.PngInfo()
    for name, value in (metadata or {}).items():
        info.add_itxt(name, str(value))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", pnginfo=info)
    path = locate(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def table(rows: Sequence[tuple[str, Any]]) -> list[str]:
    """Lines of a Markdown table of figures."""
    return ["| what | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
