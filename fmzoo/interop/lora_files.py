"""Files of LoRA weights in and out: adapters on our trees, through the same mapping as the weights that they adapt."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from fmzoo.errors import InputError
from fmzoo.interop import safetensors
from fmzoo.interop.layouts import POINTWISE, TRANSPOSED, Layout
from fmzoo.interop.lora_names import PEFT, Pair, read_pairs, spellings
from fmzoo.interop.lora_scales import CONFIG, read_alphas, write_config
from fmzoo.interop.mapping import Table, locations
from fmzoo.interop.structure import Place, Structure

WEIGHTS = "adapter_model.safetensors"
Tree = dict[str, Any]
DENSE = (TRANSPOSED, POINTWISE)  # the layouts that keep the order of inputs and outputs


class Target(NamedTuple):
    """A network that LoRA weights may be for: the mapping and the structure of its parameters."""

    table: Table
    structure: Structure


class Change(NamedTuple):
    """A layer's low-rank change in torch's layout, its scale in ``up``, and where its kernel is."""

    module: str
    place: Place
    layout: Layout
    down: np.ndarray  # [r, in], or [r, in, k, k] where torch has a convolution
    up: np.ndarray  # [out, r]


def load(path: epath.PathLike, targets: Mapping[str, Target], alone: str = "unet") -> dict[str, Tree]:
    """Adapters for `fmzoo.models.lora.join` and `merge` with scale 1, which ``b`` already has in it.

    Args:
      path: a safetensors file with PEFT's, diffusers' or kohya's names, or a folder that PEFT wrote; may be remote.
      targets: the networks, by diffusers' names of the components: `unet`, `transformer`, `text_encoder`, ...
      alone: the component that the file is for, where its names do not tell.

    Returns:
      For each component in the file a tree with ``{"kernel": {"a": [..., D, r], "b": [..., r, F]}}`` where something is
      adapted. In a stack of layers all have the rank of the largest, filled up with zeros.

    Raises:
      InputError: the file is damaged, names a layer that its network does not have, or adapts a convolution, which only
        `merge` can.
    """
    adapters = {}
    for component, changes in _read(path, targets, alone).items():
        for change in changes:
            if change.layout not in DENSE:
                raise InputError(
                    f"{path} adapts {change.module}, which is no dense kernel of its own (a convolution, perhaps); "
                    "lora_files.merge is needed"
                )
        adapters[component] = _tree(changes, targets[component].structure)
    return adapters


def merge(
    path: epath.PathLike,
    params: Mapping[str, Tree],
    targets: Mapping[str, Target],
    scale: float = 1.0,
    alone: str = "unet",
) -> dict[str, Tree]:
    """Parameters with a file's changes in them, those of convolutions too; new arrays there, the given ones elsewhere.

    Args:
      path: as in `load`.
      params: of each component, by diffusers' name.
      targets: as in `load`.
      scale: by which the changes are multiplied.
      alone: as in `load`.

    Raises:
      InputError: as in `load`, but for convolutions.
    """
    result = dict(params)
    for component, changes in _read(path, targets, alone).items():
        flat = flatten_dict(params[component], sep="/")
        for change in changes:
            kernel, shape = flat[change.place.path], targets[component].structure.shape(change.place)
            product = scale * (change.up @ change.down.reshape(len(change.down), -1))
            theirs = product.reshape(len(change.up), *change.down.shape[1:])
            (ours,) = change.layout.to_ours([theirs], [shape])
            index = ... if change.place.copy is None else change.place.copy
            flat[change.place.path] = jnp.asarray(kernel).at[index].add(jnp.asarray(ours, kernel.dtype))
        result[component] = unflatten_dict(flat, sep="/")
    return result


def save(path: epath.PathLike, adapters: Mapping[str, Tree], targets: Mapping[str, Target], scale: float = 1.0) -> None:
    """Writes adapters with diffusers' names (`unet.down_blocks....lora_A.weight`), as `load_lora_weights` reads them.

    Args:
      path: a new safetensors file; may be remote.
      adapters: of each component, by diffusers' name.
      targets: as in `load`.
      scale: what the adapters were joined with; it goes into ``lora_B``.

    Raises:
      InputError: the path exists, or an adapter is where the mapping has no single kernel.
    """
    tensors = {}
    for component, tree in adapters.items():
        tensors |= {f"{component}.{name}": x for name, x in _theirs(tree, targets[component], scale).items()}
    _write_new(epath.Path(path), tensors)


def save_peft(folder: epath.PathLike, adapters: Tree, target: Target, scale: float = 1.0) -> None:
    """Writes one network's adapters as a folder of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
      InputError: as in `save`, or the folder holds something.
    """
    from fmzoo.interop.folders import new_folder

    tensors = _theirs(adapters, target, scale)
    ranks = {name.removesuffix(".lora_A.weight"): len(x) for name, x in tensors.items() if ".lora_A." in name}
    with new_folder(folder) as inside:
        safetensors.write_file(inside / WEIGHTS, {f"{PEFT}{name}": x for name, x in tensors.items()})
        write_config(inside / CONFIG, ranks)


def _read(path: epath.PathLike, targets: Mapping[str, Target], alone: str) -> dict[str, list[Change]]:
    path = epath.Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    tensors = safetensors.read_file(file)
    alphas = read_alphas(path, file)
    found = read_pairs(tensors, alone)
    if not found or (unknown := found.keys() - targets.keys()):
        what = f"is for {', '.join(sorted(unknown))}" if found else "holds no LoRA weights"
        raise InputError(f"{path} {what}; weights for {', '.join(targets)} are needed")
    result = {}
    for component, pairs in found.items():
        target = targets[component]
        places = locations(target.table, target.structure)
        names = spellings([name.removesuffix(".weight") for name in places], target.table.renames)
        changes = []
        for pair in pairs:
            if pair.module not in names:
                raise InputError(f"{path} adapts {pair.module[:80]!r}, which the {component} does not have")
            module = names[pair.module]
            changes.append(_change(pair, module, *places[f"{module}.weight"], alphas(component, pair.module), target))
        if len({change.module for change in changes}) != len(changes):
            raise InputError(f"{path} adapts a layer of the {component} twice, by two of its names; once is needed")
        result[component] = changes
    return result


def _change(pair: Pair, module: str, place: Place, layout: Layout, scaling: Any, target: Target) -> Change:
    """A checked pair; ``scaling`` gives the scale of a rank, where the file does not hold an alpha for the layer."""
    down, up = (np.asarray(pair.tensors[name]) for name in ("down", "up"))
    shape = target.structure.shape(place)
    (theirs,) = (x.shape for x in layout.to_theirs([np.broadcast_to(np.float32(0), shape)]))
    if layout is POINTWISE and down.ndim == 2:
        down = down[:, :, None, None]
    rank = down.shape[0] if down.ndim else 0
    if not rank or down.shape[1:] != theirs[1:] or up.shape not in [(theirs[0], rank), (theirs[0], rank, 1, 1)]:
        raise InputError(
            f"the LoRA matrices of {module} have shapes {down.shape} and {up.shape}, which do not give {theirs}"
        )
    for matrix in (down, up):
        if not jnp.issubdtype(matrix.dtype, jnp.floating):
            raise InputError(f"the LoRA matrices of {module} hold {matrix.dtype}; floating-point numbers are needed")
    scale = scaling(rank)
    if "alpha" in pair.tensors:
        alpha = np.asarray(pair.tensors["alpha"])
        if alpha.size != 1:
            raise InputError(f"the alpha of {module} has shape {alpha.shape}; one number is needed")
        scale = float(alpha.reshape(())) / rank
    if not math.isfinite(scale):
        raise InputError(f"the LoRA matrices of {module} have the scale {scale}; a finite number is needed")
    up = up.reshape(theirs[0], rank).astype(np.float32) * np.float32(scale)
    return Change(module, place, layout, down.astype(np.float32), up)


def _tree(changes: list[Change], structure: Structure) -> Tree:
    flat: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for change in changes:
        ranks[change.place.path] = max(ranks.get(change.place.path, 0), len(change.down))
    for _, place, _, down, up in changes:
        *lead, inputs, outputs = structure.shapes[place.path]
        a, b = (f"{place.path}/{name}" for name in "ab")
        if a not in flat:
            flat[a] = np.zeros((*lead, inputs, ranks[place.path]), np.float32)
            flat[b] = np.zeros((*lead, ranks[place.path], outputs), np.float32)
        index = ... if place.copy is None else place.copy
        flat[a][index][:, : len(down)], flat[b][index][: len(down)] = down.reshape(len(down), -1).T, up.T
    return unflatten_dict({path: jnp.asarray(x) for path, x in flat.items()}, sep="/")


def _theirs(adapters: Tree, target: Target, scale: float) -> dict[str, np.ndarray]:
    flat = {path: np.asarray(x) for path, x in flatten_dict(adapters, sep="/").items()}
    tensors, written = {}, set()
    for name, (place, layout) in locations(target.table, target.structure).items():
        if f"{place.path}/a" in flat and layout in DENSE:
            index, tail = ... if place.copy is None else place.copy, (1, 1) if layout is POINTWISE else ()
            for letter, factor in (("a", 1.0), ("b", scale)):
                matrix = flat[f"{place.path}/{letter}"][index]
                theirs = np.ascontiguousarray((matrix * factor).astype(matrix.dtype).T)
                tensors[name.replace(".weight", f".lora_{letter.upper()}.weight")] = theirs.reshape(
                    *theirs.shape, *tail
                )
            written.add(place.path)
    if lost := sorted({path.rpartition("/")[0] for path in flat} - written):
        raise InputError(f"there is an adapter at {lost[0]}, where files have no dense kernel of their own")
    return tensors


def _write_new(path: epath.Path, tensors: Mapping[str, np.ndarray]) -> None:
    if path.exists():
        raise InputError(f"{path} exists already; a new file is needed")
    temporary = path.parent / f".{path.name}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.write_file(temporary, tensors)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or type(error).__name__})") from None
    finally:
        if temporary.exists():
            temporary.unlink()
