"""Folders of weights: one safetensors file or several with an index, read lazily, written completely or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from fmzoo.errors import InputError
from fmzoo.interop import safetensors
from fmzoo.text.files import read_json, write_json

STEM = "model"  # what transformers calls a file of weights
ENDING, INDEX_ENDING = ".safetensors", ".safetensors.index.json"
WEIGHTS = STEM + ENDING
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LARGEST_SHARD = 5 * 10**9  # bytes


def read_tensors(folder: epath.PathLike, stem: str = STEM) -> dict[str, safetensors.Tensor]:
    """The tensors of a folder by name, from `model.safetensors`, the shards of its index, or the only safetensors file.

    Args:
      folder: may be remote.
      stem: what a file of weights is called.

    Raises:
      InputError: there is no such file, a shard is missing or damaged, or the index does not fit the shards.
    """
    folder = epath.Path(folder)
    weights, index = folder / f"{stem}{ENDING}", folder / f"{stem}{INDEX_ENDING}"
    if weights.exists():
        return safetensors.read_file(weights)
    if index.exists():
        return _read_shards(folder, index)
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return safetensors.read_file(found[0])
    refuse_pickles(sorted(folder.iterdir()))
    raise InputError(
        f"{folder} holds {len(found)} safetensors files and no index; {weights.name} or {index.name} is needed"
    )


def refuse_pickles(paths: list[epath.Path]) -> None:
    """Refuses weights that are pickles, which run code when they are loaded."""
    for path in paths:
        if path.suffix in PICKLES:
            raise InputError(
                f"{path} is a pickle, which is never loaded, since it could run code; safetensors is needed "
                "(transformers' save_pretrained writes it)"
            )


def _read_shards(folder: epath.Path, path: epath.Path) -> dict[str, safetensors.Tensor]:
    tensors: dict[str, safetensors.Tensor] = {}
    for file, listed in read_index(path, ".safetensors").items():
        shard = safetensors.read_file(folder / file)
        refuse_differences(folder / file, shard.keys() ^ listed)
        tensors |= shard
    return tensors


def read_index(path: epath.Path, ending: str) -> dict[str, set[str]]:
    """The files beside an index, in order of their names, and the tensors that it says each holds.

    Args:
      path: of a JSON file with a `weight_map` of tensors to files.
      ending: of the files.

    Raises:
      InputError: there is no such map, it names something other than files in the same folder, or one is missing.
    """
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise InputError(f"{path} has no weight_map of names to files")
    listed: dict[str, set[str]] = {file: set() for file in sorted(set(places.values()))}
    there = {file.name for file in path.parent.iterdir()}
    for file in listed:
        if not file.endswith(ending) or "/" in file or "\\" in file:
            raise InputError(f"{path} names {file[:80]!r}; a {ending[1:]} file in the same folder is needed")
        if file not in there:
            raise InputError(f"{path.parent} lacks {file[:80]!r}, which its index names; all shards are needed")
    for name, file in places.items():
        listed[file].add(name)
    return listed


def refuse_differences(path: epath.Path, names: set[str]) -> None:
    """Refuses a shard if there are tensors that only one of it and its index has."""
    if names:
        raise InputError(f"{path} and its index disagree on {min(names)[:80]!r}; a whole copy is needed")


def write_tensors(
    folder: epath.Path, tensors: Mapping[str, np.ndarray], largest: int = LARGEST_SHARD, stem: str = STEM
) -> None:
    """Writes one file, or shards of at most so many bytes (one tensor at least) and their index."""
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > largest:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        safetensors.write_file(folder / f"{stem}{ENDING}", tensors)
        return
    index = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}{ENDING}"
        safetensors.write_file(folder / file, shard)
        index |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / f"{stem}{INDEX_ENDING}", {"metadata": {"total_size": total}, "weight_map": index})


@contextlib.contextmanager
def new_folder(folder: epath.PathLike) -> Iterator[epath.Path]:
    """A temporary folder that takes the name given when all went well, and is gone when it did not.

    Raises:
      InputError: something is there already, or it cannot be written (a full disk).
    """
    folder = epath.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; a new or an empty folder is needed")
    top = folder  # the highest folder that is not there yet
    while not top.parent.exists():
        top = top.parent
    temporary = top.parent / f".{top.name}.{secrets.token_hex(4)}.tmp"
    inside = temporary / os.path.relpath(folder, top)
    try:
        inside.mkdir(parents=True)
        yield inside
        if top.exists():
            top.rmdir()  # it is empty
        temporary.replace(top)
    except OSError as error:
        raise _refuse_writing(folder, error) from None
    finally:
        if temporary.exists():
            temporary.rmtree()


@contextlib.contextmanager
def new_file(path: epath.PathLike) -> Iterator[epath.Path]:
    """A temporary file that takes the name given when all went well, and is gone when it did not.

    Raises:
      InputError: something is there already, or it cannot be written (a full disk).
    """
    path = epath.Path(path)
    if path.exists():
        raise InputError(f"{path} exists already; a new name is needed")
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _refuse_writing(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_writing(path: epath.Path, error: OSError) -> InputError:
    reason = error.strerror or type(error).__name__
    where = "more space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "a folder that can be written"
    return InputError(f"{path} cannot be written ({reason}); {where} is needed")
