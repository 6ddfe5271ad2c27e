"""What names a set of pictures: one function from a name or a path to pictures."""

from etils import epath

from fmzoo.data.embedded import SPLITS
from fmzoo.data.embedded_images import SHEETS, EmbeddedImages, records
from fmzoo.data.image_folders import FolderImages, folder_splits, image_files
from fmzoo.data.pictures import Pictures
from fmzoo.errors import InputError, nearest

CHECKED = 16  # pictures that are decoded when a set is opened


def images(name: epath.PathLike, split: str = "train") -> Pictures:
    """Returns the pictures of a set: a sequence of `Picture(image, caption, label)`, decoded when asked for.

    A name is, in this order:

    - an embedded set: `digits` (8 x 8), `mnist` (28 x 28) or `emoji` (32 x 32, with names), which need no network.
    - a folder of pictures, local or remote (`gs://...`), with captions beside them: see `FolderImages`.
    - a data set of TensorFlow Datasets with a feature `image`, as `tfds:NAME` or plainly `NAME`: see `TfdsImages`.

    Args:
      name: the name or path.
      split: `train`, `validation`, `test`, `all`, or what else the set has.

    Raises:
      InputError: there is no such set or split, it is empty, captions and pictures do not fit, or one of the first
        pictures cannot be decoded. A damaged one that comes later is found when it is read.
    """
    name = str(name)
    pictures = _open(name, split)
    if not len(pictures):
        raise InputError(f"split {split!r} of {name[:150]} holds no image; at least one is needed")
    for index in range(min(CHECKED, len(pictures))):
        pictures[index]  # noqa: B018 - raises
    return pictures


def image_splits(name: epath.PathLike) -> tuple[str, ...]:
    """Returns the splits that `images` would accept for a name, apart from `all`."""
    name = str(name)
    if name in SHEETS:
        held = {record["split"] for record in records(name)}
        return tuple(split for split in SPLITS if split in held)
    if _is_folder(name):
        return tuple(folder_splits(epath.Path(name), image_files(epath.Path(name))))
    from fmzoo.data.tfds_documents import split_names

    return split_names(_tfds_name(name))


def _open(name: str, split: str) -> Pictures:
    if name in SHEETS:
        return EmbeddedImages(name, split)
    if _is_folder(name):
        return FolderImages(name, split)
    from fmzoo.data.tfds_images import TfdsImages

    return TfdsImages(_tfds_name(name), split)


def _is_folder(name: str) -> bool:
    try:
        return bool(name) and epath.Path(name).is_dir()
    except (OSError, ValueError, KeyError):  # a name too long, with a null character, or an unknown scheme://
        return False


def _tfds_name(name: str) -> str:
    """Returns a data set's name, or refuses one that neither TFDS nor anything before it knows."""
    from fmzoo.data.tfds_documents import is_known, known_names

    plain = name.removeprefix("tfds:")
    if name.startswith("tfds:") or is_known(plain):
        return plain
    meant = "a folder of images is needed" if "/" in name or not name else nearest(name, [*SHEETS, *known_names()])
    raise InputError(f"image set {name[:100]!r} does not exist; {meant}")
