"""TensorFlow Datasets builders over the embedded corpora and picture sets.

Importing this module registers `fmzoo_shakespeare_milton`, `fmzoo_king_james`, `fmzoo_digits`, `fmzoo_mnist5k` and
`fmzoo_emoji`, so that any code that reads TFDS can read them:

    import tensorflow_datasets as tfds
    import fmzoo.data.builders

    tfds.data_source("fmzoo_king_james", builder_kwargs={"file_format": "array_record"})

They are written as array_record and read by `as_data_source`, which need no TensorFlow.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fmzoo.data import embedded, embedded_images
from fmzoo.data.pictures import encode

_CITATION = "Embedded in fmzoo; see fmzoo/data/corpora/NOTICE for sources and licences."
_IMAGE_CITATION = "Embedded in fmzoo; see fmzoo/data/images/NOTICE for sources and licences."


class _EmbeddedCorpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes one embedded corpus as a data set with `work`, `title`, `part` and `text`."""

    VERSION = tfds.core.Version("1.0.0")
    CORPUS: str
    DESCRIPTION: str

    def _info(self) -> tfds.core.DatasetInfo:
        fields = {name: tfds.features.Text() for name in ("work", "title", "part", "text")}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(fields),
            citation=_CITATION,
            disable_shuffling=True,  # the order of works and parts
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        found = {record.split for record in embedded.records(self.CORPUS)}
        return {split: self._generate_examples(split) for split in embedded.SPLITS if split in found}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for number, record in enumerate(embedded.records(self.CORPUS)):
            if record.split == split:
                fields = record._asdict()
                del fields["split"]
                yield number, fields


class FmzooShakespeareMilton(_EmbeddedCorpus):
    """Shakespeare and Milton; Macbeth, The Tempest and the Sonnets are the split `test`."""

    CORPUS = "shakespeare_milton"
    DESCRIPTION = "Shakespeare's plays by scene and poems, Milton's poems and Areopagitica, in the public domain."


class FmzooKingJames(_EmbeddedCorpus):
    """The King James Bible."""

    CORPUS = "king_james"
    DESCRIPTION = "The King James Version of the Bible by chapter, in the public domain."


class _EmbeddedImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes one embedded picture set as a data set with `image`, `caption` and `label`."""

    VERSION = tfds.core.Version("1.0.0")
    SET: str
    SHAPE: tuple[int, int, int]
    DESCRIPTION: str

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=self.SHAPE, encoding_format="png"),
            "caption": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(embedded_images.CLASSES[self.SET])),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(features | self._more_features()),
            supervised_keys=("image", "label"),
            citation=_IMAGE_CITATION,
            disable_shuffling=True,
        )

    def _more_features(self) -> dict[str, Any]:
        return {}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in embedded.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        tiles = embedded_images.tiles(self.SET)
        for number, record in enumerate(embedded_images.records(self.SET)):
            if record["split"] == split:
                known = {name: value for name, value in record.items() if name != "split"}
                yield number, {"image": encode(tiles[number]), **known}  # bytes: TFDS would ask TensorFlow for an array


class FmzooDigits(_EmbeddedImages):
    """1,797 handwritten digits of 8 x 8."""

    SET = "digits"
    SHAPE = (8, 8, 1)
    DESCRIPTION = "Handwritten digits of 8 x 8: the test set of UCI's optical recognition of handwritten digits."


class FmzooMnist5k(_EmbeddedImages):
    """5,000 handwritten digits of 28 x 28."""

    SET = "mnist"
    SHAPE = (28, 28, 1)
    DESCRIPTION = "5,000 of MNIST's handwritten digits, 500 of each."


class FmzooEmoji(_EmbeddedImages):
    """3,375 emoji with their names; the split `test` is 64 pairs of object and skin tone."""

    SET = "emoji"
    SHAPE = (32, 32, 3)
    DESCRIPTION = "Microsoft's Fluent emoji in 3D on white with their names in English."

    def _more_features(self) -> dict[str, Any]:
        return {"object": tfds.features.Text(), "tone": tfds.features.Scalar(np.int32)}  # 0: none, -1: several
