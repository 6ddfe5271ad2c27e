"""The files of a kind below a folder."""

import os
from collections.abc import Callable, Iterator

from etils import epath


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
