"""Folders of pictures with captions beside them."""

import json
from collections.abc import Iterable, Sequence

from etils import epath

from fmzoo.data.embedded import SPLITS
from fmzoo.data.folders import files_below
from fmzoo.data.pictures import Picture, decode
from fmzoo.errors import InputError, nearest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
METADATA = "metadata.jsonl"
LARGEST = 2**28  # bytes of one file


class FolderImages(Sequence[Picture]):
    """The pictures at any depth below a folder, in the order of their paths.

    A caption stands in a `.txt` file of the picture's name, or in a `metadata.jsonl` of its folder or one above, lines
    of `{"file_name": ..., "text": ...}` with names relative to that file. Either every picture has one or none has. If
    folders in the folder are called `train`, `validation` or `test`, those are the splits; else all is `train`. If
    every picture of a split stands in a folder below that, those folders are the classes; splits number them alike.
    """

    def __init__(self, folder: epath.PathLike, split: str = "train"):
        """Lists the pictures and finds their captions; pictures and `.txt` files are read when asked for.

        Raises:
          InputError: there is no picture or no such split, a caption is for a picture that is not there, or some
            pictures have captions and others do not.
        """
        self.folder, self.split = epath.Path(folder), split
        found = image_files(self.folder)
        named = folder_splits(self.folder, found)
        if split not in (*named, "all"):
            raise InputError(f"data {self.folder} has no split {split!r}; {nearest(split, [*named, 'all'])}")
        chosen = found if split == "all" else [file for file in found if file in named[split]]
        self._files = [file for file in chosen if _is_picture(file)]
        self._captions = _find_captions(found)
        self.classes, self._labels = self._find_classes(named)

    def _find_classes(self, named: dict[str, set[epath.Path]]) -> tuple[tuple[str, ...], list[int]]:
        depth = 1 if any((self.folder / split).is_dir() for split in named) else 0

        def tops(files: Iterable[epath.Path]) -> list[str]:
            """The folder that each picture stands in, nothing if one stands in none."""
            parts = [file.relative_to(self.folder).parts[depth:] for file in files if _is_picture(file)]
            return [part[0] for part in parts] if all(len(part) > 1 for part in parts) else []

        if not (mine := tops(self._files)):
            return (), [-1] * len(self._files)
        classes = sorted({*mine, *(top for files in named.values() for top in tops(files))})
        return tuple(classes), [classes.index(top) for top in mine]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Picture:
        file, label = self._files[index], self._labels[index]
        caption = self._captions.get(file, self.classes[label] if self.classes else "")
        text = caption if isinstance(caption, str) else _read_text(caption)
        return Picture(decode(_read(file), str(file)), text, label)


def folder_splits(folder: epath.Path, files: list[epath.Path]) -> dict[str, set[epath.Path]]:
    """The files of each split that a folder has; all are `train` if no folder in it is called after a split."""
    if not any(_is_picture(file) for file in files):
        raise InputError(f"data {_short(folder)} holds no image; a {', '.join(SUFFIXES)} file is needed")
    named: dict[str, set[epath.Path]] = {}
    for file in files:
        top = file.relative_to(folder).parts[0]
        if top in SPLITS and file.name != top:
            named.setdefault(top, set()).add(file)
    return {split: named[split] for split in SPLITS if split in named} or {"train": set(files)}


def _find_captions(files: list[epath.Path]) -> dict[epath.Path, str | epath.Path]:
    """The caption of each picture, or the file that holds it; nothing if no picture has one."""
    pictures = {file.with_suffix(""): file for file in files if _is_picture(file)}
    captions: dict[epath.Path, str | epath.Path] = {}
    for file in files:
        if file.name == METADATA:
            captions |= _read_metadata(file, set(pictures.values()))
    for file in files:
        if file.suffix == ".txt":
            if file.with_suffix("") not in pictures:
                raise InputError(
                    f"caption {_short(file)} has no image beside it; one of {', '.join(SUFFIXES)} is needed"
                )
            captions.setdefault(pictures[file.with_suffix("")], file)
    missing = [file for file in files if _is_picture(file) and file not in captions]
    if captions and missing:
        raise InputError(f"image {_short(missing[0])} has no caption though others have; a .txt or a line is needed")
    return captions


def image_files(folder: epath.Path) -> list[epath.Path]:
    """The pictures and captions below a folder."""
    return sorted(files_below(folder, _matters))


def _is_picture(file: epath.Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _matters(file: epath.Path) -> bool:
    return _is_picture(file) or file.suffix == ".txt" or file.name == METADATA


def _read(file: epath.Path) -> bytes:
    try:
        size = file.stat().length
        if size > LARGEST:
            raise InputError(f"file {_short(file)} has {size} bytes; at most {LARGEST} are accepted")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"file {_short(file)} cannot be read ({type(error).__name__}); it was there before") from None


def _read_text(file: epath.Path) -> str:
    try:
        return _read(file).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError(f"file {_short(file)} is not UTF-8; captions are text") from None


def _read_metadata(file: epath.Path, pictures: set[epath.Path]) -> dict[epath.Path, str]:
    captions: dict[epath.Path, str] = {}
    for number, line in enumerate(_read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = text = None
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(
                f'{_short(file)} line {number} is no {{"file_name": ..., "text": ...}}; each line must be one'
            )
        place = file.parent / name
        if place not in pictures:
            raise InputError(f"{_short(file)} line {number} has a caption for {name[:80]!r}; there is no such image")
        captions[place] = text
    return captions


def _short(path: epath.Path) -> str:
    text = str(path)
    return text if len(text) <= 120 else "..." + text[-117:]
