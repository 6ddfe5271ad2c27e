"""The files of a kind below a folder, and which of them make a split."""

import os
from collections.abc import Callable, Iterator

from etils import epath

from fmzoo.data.embedded import SPLITS
from fmzoo.errors import InputError, nearest


def files_below(folder: epath.Path, wanted: Callable[[epath.Path], bool]) -> Iterator[epath.Path]:
    """Yields the wanted files below a folder, each folder once even if links go round, none that is hidden."""
    return _below(folder, wanted, set())


def _below(folder: epath.Path, wanted: Callable[[epath.Path], bool], seen: set[str]) -> Iterator[epath.Path]:
    place = str(folder) if "://" in str(folder) else os.path.realpath(folder)
    if place in seen:
        return
    seen.add(place)
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, wanted, seen)
        elif wanted(path):
            yield path


def files_of_split(path: epath.Path, split: str, suffixes: tuple[str, ...]) -> list[epath.Path]:
    """A file itself, or a folder's files of one split in the order of their paths; all are `train` if none is named so.

    Raises:
      InputError: the file is of another kind, or there is none, or no such split.
    """
    files = _files(path, suffixes)
    if not files:
        raise InputError(f"data {path} holds no {any_of(suffixes)} file")
    if split == "all":
        return files
    named = files_by_split(path, suffixes) or {"train": files}
    if split not in named:
        raise InputError(f"data {path} has no split {split!r}; {nearest(split, [*named, 'all'])}")
    return named[split]


def files_by_split(path: epath.Path, suffixes: tuple[str, ...]) -> dict[str, list[epath.Path]]:
    """A folder's files by the split that their name or folder begins with; nothing if none is so named."""
    named: dict[str, list[epath.Path]] = {}
    for file in _files(path, suffixes) if path.is_dir() else ():
        for part in file.relative_to(path).parts:
            words = part.replace("-", ".").replace("_", ".").split(".")
            if words[0] in SPLITS:
                named.setdefault(words[0], []).append(file)
                break
    return named


def any_of(suffixes: tuple[str, ...]) -> str:
    """``.a, .b or .c``."""
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"


def _files(path: epath.Path, suffixes: tuple[str, ...]) -> list[epath.Path]:
    def wanted(file: epath.Path) -> bool:
        return file.name.endswith(suffixes)

    if not path.is_dir():
        if not wanted(path):
            raise InputError(f"data {path} is of no known kind; {any_of(suffixes)} is needed")
        return [path]
    return sorted(files_below(path, wanted))
