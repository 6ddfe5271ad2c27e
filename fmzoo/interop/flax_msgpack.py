"""Weights of Flax classes, as diffusers wrote them up to version 0.39 and transformers up to 4.57.

Diffusers wrote `diffusion_flax_model.msgpack`, transformers `flax_model.msgpack`, or shards of that and an index.
Such a file is a tree of names with arrays as its leaves. Reading makes nothing but dictionaries, strings and arrays of
floating-point numbers from it, whatever it says. The tensors get the names and layouts of the torch classes, for which
the mappings are: a Flax class differs from the torch class beside it in the same way in every family.
"""

import math
import re
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from fmzoo.errors import InputError
from fmzoo.interop import folders

WEIGHTS, TEXT_WEIGHTS = "diffusion_flax_model.msgpack", "flax_model.msgpack"
INDEX = TEXT_WEIGHTS + ".index.json"
CLASSES = {
    "FlaxUNet2DConditionModel": "UNet2DConditionModel",
    "FlaxAutoencoderKL": "AutoencoderKL",
    "UNet2DConditionModel": "UNet2DConditionModel",  # as the first releases wrote it
    "AutoencoderKL": "AutoencoderKL",
}
WITHOUT_EFFECT = ("dtype", "use_memory_efficient_attention", "split_head_dim")  # on what a network computes
DTYPES = {str(dtype): dtype for dtype in map(np.dtype, (np.float64, np.float32, np.float16, ml_dtypes.bfloat16))}
ARRAY = 1  # flax's code of an array among msgpack's extension types
MOST_AXES = 8
NUMBERED = re.compile(
    r"(?<![^/])(down_blocks|up_blocks|resnets|attentions|transformer_blocks|downsamplers|upsamplers|net|to_out)_(\d+)/"
)
PARAMETERS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "weight": "weight", "bias": "bias"}


def read_file(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a file, by the names and in the layouts of the torch classes.

    Raises:
      InputError: the file cannot be read, is cut short, or holds something other than a tree of arrays.
    """
    path = epath.Path(path)
    flat = _unpack(path)
    tensors: dict[str, np.ndarray] = {}
    for name, leaf in flat.items():
        if not isinstance(leaf, np.ndarray):
            raise InputError(f"{path} has a {type(leaf).__name__} at {name[:80]!r}; an array is needed")
        tensors[_name(name, path)] = _layout(name, leaf)
    if not flat or len(tensors) != len(flat):
        raise InputError(
            f"{path} holds {len(flat)} arrays of {len(tensors)} names; the parameters of a model are needed"
        )
    return tensors


def find(folder: epath.PathLike) -> epath.Path | None:
    """The file of a Flax class in a component's folder, or None; safetensors are taken before it."""
    folder = epath.Path(folder)
    if any(path.suffix == ".safetensors" for path in folder.iterdir()):
        return None
    return next((folder / name for name in (WEIGHTS, TEXT_WEIGHTS) if (folder / name).exists()), None)


def holds_model(folder: epath.PathLike) -> bool:
    """Whether a folder holds a model of a Flax class of transformers and no safetensors, which are taken before it."""
    names = {path.name for path in epath.Path(folder).iterdir()}
    return not any(name.endswith(".safetensors") for name in names) and not names.isdisjoint((TEXT_WEIGHTS, INDEX))


def read_folder(folder: epath.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a model of a Flax class of transformers, from one file or from the shards of its index.

    Raises:
      InputError: a file is missing or damaged, or the index does not fit the shards.
    """
    folder = epath.Path(folder)
    whole, index = folder / TEXT_WEIGHTS, folder / INDEX
    if whole.exists():
        return read_file(whole)
    tensors: dict[str, np.ndarray] = {}
    for file, names in folders.read_index(index, ".msgpack").items():
        shard = read_file(folder / file)
        folders.refuse_differences(folder / file, shard.keys() ^ {_name(name, index) for name in names})
        tensors |= shard
    return tensors


def read_config(values: dict[str, Any], source: str = "config.json") -> dict[str, Any]:
    """The `config.json` of a Flax class as that of the torch class which computes the same.

    Raises:
      InputError: there is no such torch class.
    """
    name = str(values.get("_class_name"))[:60]
    if name not in CLASSES:
        raise InputError(f"{source} has _class_name {name!r}; {' or '.join(list(CLASSES)[:2])} is needed")
    kept = {key: value for key, value in values.items() if key not in WITHOUT_EFFECT}
    return kept | {"_class_name": CLASSES[name]}


def _unpack(path: epath.Path) -> dict[str, Any]:
    """The leaves of the tree by their paths; none if it is no tree."""
    try:
        content = path.read_bytes()
        tree = msgpack.unpackb(
            content,
            raw=False,
            ext_hook=_read_array,
            object_pairs_hook=_without_duplicates,
            strict_map_key=True,
            max_ext_len=len(content),
        )
        return flatten_dict(tree, sep="/") if isinstance(tree, dict) else {}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from None
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error)[:80] or type(error).__name__
        raise InputError(f"{path} is no sound msgpack file of flax ({reason}); a whole copy is needed") from None


def _read_array(code: int, content: bytes) -> np.ndarray:
    """An array from flax's extension type: its shape, the name of its dtype, and its bytes."""
    if code != ARRAY:
        raise ValueError(f"extension type {code} is unknown")
    shape, name, numbers = msgpack.unpackb(content, raw=False, max_bin_len=len(content))
    if name not in DTYPES or not isinstance(numbers, bytes):
        raise ValueError(f"dtype {str(name)[:40]!r} is none of floating-point numbers")
    if len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"shape {str(shape)[:40]} cannot be")
    if math.prod(shape) * DTYPES[name].itemsize != len(numbers):
        raise ValueError(f"{len(numbers)} bytes do not fit the shape {tuple(shape)} of {name}")
    return np.frombuffer(numbers, DTYPES[name]).reshape(shape)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Any:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return _join_chunks(found) if "__msgpack_chunked_array__" in found else found


def _join_chunks(found: dict[str, Any]) -> np.ndarray:
    """An array of over 1 GiB, which flax stores as a dictionary of flat pieces."""
    shape, chunks = found.get("shape"), found.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict):
        raise ValueError("an array in pieces lacks its shape or its pieces")
    pieces = [chunks.get(str(i)) for i in range(len(chunks))]
    sizes = [shape.get(str(i)) for i in range(len(shape))]
    if not pieces or not all(isinstance(x, np.ndarray) for x in pieces) or not all(type(n) is int for n in sizes):
        raise ValueError("an array in pieces has a piece that is no array")
    return np.concatenate(pieces).reshape(sizes)


def _name(path: str, source: epath.Path) -> str:
    """The torch name: ``down_blocks_0/resnets_1/norm1/scale`` is ``down_blocks.0.resnets.1.norm1.weight``."""
    module, _, parameter = NUMBERED.sub(r"\1.\2/", path).rpartition("/")
    if not module or parameter not in PARAMETERS:
        raise InputError(f"{source} has a parameter {path[:80]!r}; a {', '.join(PARAMETERS)} of a layer is needed")
    return f"{module.replace('/', '.')}.{PARAMETERS[parameter]}"


def _layout(path: str, array: np.ndarray) -> np.ndarray:
    """Torch's layout of a kernel: HWIO to OIHW, [in, out] to [out, in]; a view."""
    if not path.endswith("/kernel"):
        return array
    return {2: lambda x: x.T, 4: lambda x: x.transpose(3, 2, 0, 1)}.get(array.ndim, lambda x: x)(array)
