"""TensorFlow Datasets builders over the embedded corpora.

Importing this module registers `fmzoo_shakespeare_milton` and `fmzoo_king_james`, so that any code that reads TFDS can
read them:

    import tensorflow_datasets as tfds
    import fmzoo.data.builders

    tfds.data_source("fmzoo_king_james", builder_kwargs={"file_format": "array_record"})

They are written as array_record and read by `as_data_source`, which need no TensorFlow.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from fmzoo.data import embedded

_CITATION = "Embedded in fmzoo; see fmzoo/data/corpora/NOTICE for sources and licences."


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
