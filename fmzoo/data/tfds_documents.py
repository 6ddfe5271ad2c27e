"""Documents of any TensorFlow data set, read by random access without TensorFlow."""

import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

from fmzoo.errors import InputError, nearest


def data_dirs() -> list[str]:
    """Where prepared data sets are looked for; the first is where new ones are written.

    `TFDS_DATA_DIR` alone if it is set, else fmzoo's cache and TFDS's own default.
    """
    if chosen := os.environ.get("TFDS_DATA_DIR"):
        return [chosen]
    return [os.path.expanduser("~/.cache/fmzoo"), os.path.expanduser("~/tensorflow_datasets")]


def is_known(name: str) -> bool:
    """Says whether TFDS has a data set of this name (`NAME`, `NAME/CONFIG` or `NAME:VERSION`)."""
    return _plain(name) in known_names()


def known_names() -> frozenset[str]:
    """Returns the names of all data sets that TFDS has here, fmzoo's own included."""
    import tensorflow_datasets as tfds

    import fmzoo.data.builders  # noqa: F401 - registers ours

    return frozenset(tfds.list_builders(with_community_datasets=False))


def split_names(name: str) -> tuple[str, ...]:
    """Returns the splits of a data set, prepared if need be."""
    return tuple(prepared(name).info.splits)


class TfdsDocuments(Sequence[str]):
    """One field of one split of a data set, as texts."""

    def __init__(self, name: str, split: str = "train", field: str = "text"):
        """Opens the data set, after preparing it if that has not been done.

        Args:
          name: the name in TFDS, with config and version if wanted.
          split: any TFDS split, slices such as `train[:10%]` included; `all` for everything.
          field: the name of the text.

        Raises:
          InputError: the name, split or field is unknown, or the data set can be neither found nor prepared.
        """
        self.name, self.split, self.field = name, split, field
        features = self._builder.info.features
        if field not in features:
            raise InputError(f"data set {name} has no field {field!r}; {nearest(field, features)}")
        self._source  # noqa: B018 - a wrong split shows here and now

    @functools.cached_property
    def _builder(self) -> Any:
        return prepared(self.name)

    @functools.cached_property
    def _source(self) -> Any:
        return open_split(self._builder, self.name, self.split)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        text = self._source[index][self.field]
        if not isinstance(text, bytes | str):
            raise InputError(f"field {self.field!r} of {self.name} is {type(text).__name__}; a text field is needed")
        try:
            return text if isinstance(text, str) else text.decode()
        except UnicodeDecodeError:
            raise InputError(f"field {self.field!r} of {self.name} example {index} is not UTF-8") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "split": self.split, "field": self.field}


def open_split(builder: Any, name: str, split: str, **options: Any) -> Any:
    """Returns the examples of a split by random access.

    Raises:
      InputError: there is no such split, or it cannot be read at random.
    """
    splits = list(builder.info.splits)
    if split != "all" and split.split("[")[0].split("+")[0] not in splits:
        raise InputError(f"split {split!r} is not in {name}; {nearest(split, [*splits, 'all'])}")
    try:
        return builder.as_data_source("+".join(splits) if split == "all" else split, **options)
    except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"split {split!r} of {name} cannot be read ({_first_line(error)[:120]})") from None


def _plain(name: str) -> str:
    return name.split(":")[0].split("/")[0]


def prepared(name: str) -> Any:
    """Returns a builder whose files are there; if not, prepares it, all or nothing, in the first data folder."""
    if not is_known(name):
        raise InputError(f"data set {name!r} is not known to TFDS; {nearest(_plain(name), known_names())}")
    builders = [_builder(name, folder) for folder in data_dirs()]
    for builder in builders:
        if builder.is_prepared():
            return builder
    epath.Path(data_dirs()[0]).mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where progress belongs
            builders[0].download_and_prepare()
    except Exception as error:  # noqa: BLE001 - whatever a data set's own code raises
        if not builders[0].is_prepared():  # else another process was faster
            raise InputError(f"data set {name} cannot be prepared ({_first_line(error)[:150]})") from None
    return builders[0]


def _builder(name: str, folder: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=folder, file_format="array_record")
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"data set {name!r} cannot be opened ({_first_line(error)[:150]})") from None


def _first_line(error: Exception) -> str:
    message = str(error).rpartition('}": ')[2]  # after what TFDS repeats of its own arguments
    return (message or type(error).__name__).split("\n")[0]
