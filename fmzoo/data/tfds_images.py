"""Pictures of any TensorFlow data set, read by random access and decoded without TensorFlow."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmzoo.data.pictures import Picture, decode
from fmzoo.data.tfds_documents import open_split, prepared
from fmzoo.errors import InputError, nearest


class TfdsImages(Sequence[Picture]):
    """One split of a data set with a picture, and a label or a caption or both."""

    def __init__(
        self, name: str, split: str = "train", *, image: str = "image", label: str = "label", caption: str = ""
    ):
        """Opens the data set, after preparing it if that has not been done.

        Args:
          name: the name in TFDS, with config and version if wanted.
          split: any TFDS split, slices such as `train[:10%]` included; `all` for everything.
          image: the feature that is the picture.
          label: the feature that is the class, if there is such a one.
          caption: the feature that is the text; "" takes `caption` or `text` if there is one, else the class's name.

        Raises:
          InputError: the name, split or feature is unknown, the feature is no picture, or the data set can be neither
            found nor prepared.
        """
        self.name, self.split, self.image = name, split, image
        features = self._builder.info.features
        for field in (image, caption):
            if field and field not in features:
                raise InputError(f"data set {name} has no field {field!r}; {nearest(field, features)}")
        if type(features[image]).__name__ != "Image":
            raise InputError(f"field {image!r} of {name} is {type(features[image]).__name__}; an Image is needed")
        self.caption = caption or next((field for field in ("caption", "text") if field in features), "")
        self.label = label if label in features and hasattr(features[label], "int2str") else ""
        self.classes = tuple(features[label].names) if self.label else ()
        self._source  # noqa: B018 - a wrong split shows here and now

    @functools.cached_property
    def _builder(self) -> Any:
        return prepared(self.name)

    @functools.cached_property
    def _source(self) -> Any:
        import tensorflow_datasets as tfds

        skipped = {self.image: tfds.decode.SkipDecoding()}  # the bytes, which `decode` looks at before decoding
        return open_split(self._builder, self.name, self.split, decoders=skipped)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Picture:
        if not 0 <= index < len(self):
            raise IndexError(index)
        example = self._source[index]
        label = int(example[self.label]) if self.label else -1
        caption = example[self.caption] if self.caption else self.classes[label] if label >= 0 else ""
        if not isinstance(caption, bytes | str):
            raise InputError(
                f"field {self.caption!r} of {self.name} is {type(caption).__name__}; a text field is needed"
            )
        text = caption if isinstance(caption, str) else caption.decode(errors="replace")
        image = example[self.image]
        where = f"{index} of {self.name}"
        return Picture(image if isinstance(image, np.ndarray) else decode(image, where), text, label)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_builder", "_source")}
