"""GGUF files in folders: one, or the parts of one, `NAME-00001-of-00003.gguf` and so on, as llama.cpp splits them."""

import re

from etils import epath

from fmzoo.errors import InputError
from fmzoo.interop.gguf_format import Contents, read_file

ENDING = ".gguf"
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
MOST_PARTS = 1000


def find(folder: epath.PathLike) -> epath.Path | None:
    """The only GGUF file of a folder, or the first of its parts, None if there is none.

    Raises:
      InputError: there are several.
    """
    found = sorted(epath.Path(folder).glob(f"*{ENDING}"))
    names = {(match[1], match[3]) if (match := PART.fullmatch(path.name)) else path.name for path in found}
    if len(names) > 1:
        raise InputError(f"{folder} holds {len(found)} GGUF files ({found[0].name}, {found[1].name}); name the file")
    return found[0] if found else None


def read_parts(path: epath.PathLike) -> Contents:
    """What a file and the other parts of it hold: the metadata of the first part, and the tensors of all.

    Raises:
      InputError: as `read_file`, or a part is missing, not the one that its name says, or repeats a tensor.
    """
    path = epath.Path(path)
    metadata, tensors = read_file(path)
    count = metadata.get("split.count", 1)
    if str(count) in ("0", "1"):
        return Contents(metadata, tensors)
    match = PART.fullmatch(path.name)
    if type(count) is not int or not 1 < count <= MOST_PARTS or match is None or int(match[3]) != count:
        raise InputError(f"{path} is one of {str(count)[:40]} parts, named NAME-00001-of-{str(count)[:5]:0>5}.gguf")
    parts = [read_file(path.parent / f"{match[1]}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    tensors = {}
    for i, part in enumerate(parts):
        if part.metadata.get("split.no") != i or part.metadata.get("split.count") != count:
            raise InputError(f"{path} is split, and its part {i + 1} of {count} says that it is another one")
        if repeated := tensors.keys() & part.tensors.keys():
            raise InputError(f"{path} is split, and the tensor {min(repeated)[:80]} stands in two parts")
        tensors |= part.tensors
    return Contents(parts[0].metadata, tensors)
