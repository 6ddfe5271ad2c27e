"""What `--data` accepts: one function from a name or a path to documents."""

from collections.abc import Callable, Sequence

from etils import epath

from fmzoo.data.embedded import CORPORA, SPLITS, EmbeddedDocuments
from fmzoo.data.folders import any_of, files_by_split, files_of_split
from fmzoo.data.mixtures import Mixture
from fmzoo.data.text_files import READERS, Concatenated
from fmzoo.errors import InputError, nearest

CHECKED = 2**26  # characters that are read when a source is opened
KINDS = any_of(tuple(READERS))


def source(name: epath.PathLike, split: str = "train", field: str = "text") -> Sequence[str]:
    """Returns the documents of a data set: a sequence of texts, read when asked for.

    A name is, in this order:

    - an embedded corpus: `shakespeare` (with Milton), `bible` (King James) or `classics` (both), which need no network.
      Macbeth, The Tempest and the Sonnets are the split `test`, one other document in 40 is `validation`.
    - a file: `.txt` (one document), `.jsonl` or `.jsonl.gz` (a JSON object a line) or `.parquet` (a row a document),
      local or remote (`gs://...`).
    - a folder with such files at any depth, in the order of their paths. If files or folders in it are called after a
      split (`test.jsonl`, `test/...`, `train-00001-of-00002.parquet`), a split is those; if none are, all files are
      `train`.
    - a data set of TensorFlow Datasets, as `tfds:NAME` or plainly `NAME`, with `/CONFIG` and `:VERSION` if wanted. It
      is looked for in `TFDS_DATA_DIR`, or else in `~/.cache/fmzoo` and `~/tensorflow_datasets`, and prepared if
      missing.
    - a mixture, `NAME=WEIGHT,NAME=WEIGHT`: each of the above with its share of documents.

    Args:
      name: the name or path.
      split: `train`, `validation`, `test`, `all`, or what else the data set has.
      field: the field of a JSON object, column or feature that holds the text.

    Raises:
      InputError: there is no such source, split or field, it is empty, or something in it cannot be read. The first 64
        MiB are read at once to find out; what comes later is found when it is read.
    """
    name = str(name)
    documents = _open(name, split, field)
    _check(documents, name)
    return documents


def splits(name: epath.PathLike) -> tuple[str, ...]:
    """Returns the splits that `source` would accept for a name, apart from `all`."""
    name = str(name)
    if name in CORPORA:
        return tuple(s for s in SPLITS if any(r.split == s for r in EmbeddedDocuments(name, "all").records))
    if _exists(name):
        named = files_by_split(epath.Path(name), tuple(READERS))
        return tuple(s for s in SPLITS if s in named) or ("train",)
    if parts := _mixture(name):
        common = [splits(part) for part in parts]
        return tuple(s for s in common[0] if all(s in other for other in common))
    from fmzoo.data.tfds_documents import split_names

    return split_names(_tfds_name(name))


def _open(name: str, split: str, field: str) -> Sequence[str]:
    if name in CORPORA:
        return EmbeddedDocuments(name, split)
    if _exists(name):
        return _read_files(epath.Path(name), split, field)
    if parts := _mixture(name):
        return Mixture({part: _open(part, split, field) for part in parts}, parts)
    return _tfds(name, split, field)


def _exists(name: str) -> bool:
    try:
        return bool(name) and epath.Path(name).exists()
    except (OSError, ValueError, KeyError):  # a name too long, with a null character, or an unknown scheme://
        return False


def _mixture(name: str) -> dict[str, float]:
    """Reads `NAME=WEIGHT,NAME=WEIGHT`; nothing if the name is not of this form."""
    if "=" not in name:
        return {}
    parts: dict[str, float] = {}
    for part in name.split(","):
        known, _, weight = part.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not known or known in parts or not 0 < value < float("inf"):
            raise InputError(
                f"data {name[:80]!r}: {part[:60]!r} is not NAME=WEIGHT with a positive weight, each name once"
            )
        parts[known] = value
    return parts


def _tfds(name: str, split: str, field: str) -> Sequence[str]:
    from fmzoo.data.tfds_documents import TfdsDocuments

    return TfdsDocuments(_tfds_name(name), split, field)


def _tfds_name(name: str) -> str:
    """Returns a data set's name, or refuses one that neither TFDS nor anything before it knows."""
    from fmzoo.data.tfds_documents import is_known, known_names

    plain = name.removeprefix("tfds:")
    if name.startswith("tfds:") or is_known(plain):
        return plain
    looks_like_path = "/" in name or name.endswith(tuple(READERS)) or not name
    meant = f"a file ({KINDS}) or folder is needed" if looks_like_path else nearest(name, [*CORPORA, *known_names()])
    raise InputError(f"data {name[:100]!r} does not exist; {meant}")


def _read_files(path: epath.Path, split: str, field: str) -> Sequence[str]:
    return Concatenated([_reader(file)(file, field) for file in files_of_split(path, split, tuple(READERS))])


def _reader(path: epath.Path) -> Callable[[epath.Path, str], Sequence[str]]:
    return next(reader for suffix, reader in READERS.items() if path.name.endswith(suffix))


def _check(documents: Sequence[str], name: str) -> None:
    """Reads the beginning, so that most mistakes show before anything is compiled or written."""
    length = 0
    for index in range(len(documents)):
        length += len(documents[index])
        if length > CHECKED:
            return
    if not length:
        raise InputError(f"data {name[:200]} holds no text; at least one document is needed")
