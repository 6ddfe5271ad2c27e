"""Files of LoRA weights in and out: adapters on our trees, through the same mapping as the weights that they adapt."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from fmzoo.errors import InputError
from fmzoo.interop import folders, safetensors
from fmzoo.interop.layouts import POINTWISE, Layout
from fmzoo.interop.lora_factors import Factors, join_up, split_up, stand_together, torch_shape
from fmzoo.interop.lora_names import PEFT, Pair, read_pairs, spellings
from fmzoo.interop.lora_scales import CONFIG, read_alphas, write_config
from fmzoo.interop.mapping import Table, locations
from fmzoo.interop.structure import Place, Structure

WEIGHTS = "adapter_model.safetensors"
Tree = dict[str, Any]


class Target(NamedTuple):
    """A network that LoRA weights may be for: the mapping and the structure of its parameters."""

    table: Table
    structure: Structure

    @property
    def keeps_inputs_first(self) -> bool:
        """Whether theirs holds kernels as ``[in, out]`` (GPT-2), which PEFT has to be told."""
        return any(layout.outputs == 1 for _, layout in locations(self.table, self.structure).values())


class Change(NamedTuple):
    """A layer's low-rank change in torch's layout, its scale in ``up``, and where its kernel is, or its kernels are."""

    module: str
    places: list[Place]
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
            if change.layout.outputs is None:
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
            product = scale * (change.up @ change.down.reshape(len(change.down), -1))
            theirs = product.reshape(len(change.up), *change.down.shape[1:])
            shapes = [targets[component].structure.shape(place) for place in change.places]
            parts = change.layout.to_ours([theirs.T if change.layout.outputs == 1 else theirs], shapes)
            for place, part, shape in zip(change.places, parts, shapes, strict=True):
                kernel, index = flat[place.path], ... if place.copy is None else place.copy
                part = jnp.asarray(part.reshape(shape), kernel.dtype)
                flat[place.path] = jnp.asarray(kernel).at[index].add(part)
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


def save_peft(
    folder: epath.PathLike, adapters: Tree, target: Target, scale: float = 1.0, task: str | None = None
) -> None:
    """Writes one network's adapters as a folder of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

    Args:
      folder: a folder that is not there or empty; may be remote.
      adapters: of the network.
      target: its mapping and structure.
      scale: as in `save`.
      task: PEFT's name of what the network is for, such as ``CAUSAL_LM``.

    Raises:
      InputError: as in `save`, or the folder holds something.
    """
    tensors = _theirs(adapters, target, scale)
    ranks = {name.removesuffix(".lora_A.weight"): len(x) for name, x in tensors.items() if ".lora_A." in name}
    with folders.new_folder(folder) as inside:
        safetensors.write_file(inside / WEIGHTS, {f"{PEFT}{name}": x for name, x in tensors.items()})
        write_config(inside / CONFIG, ranks, target.keeps_inputs_first, task)


def _read(path: epath.PathLike, targets: Mapping[str, Target], alone: str) -> dict[str, list[Change]]:
    path = epath.Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    folders.refuse_pickles([file] if file.exists() or not path.is_dir() else sorted(path.iterdir()))
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
        modules = [name.removesuffix(".weight") for name in places if name.endswith(".weight")]
        names = spellings(modules, target.table.renames)
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


def _change(pair: Pair, module: str, places: list[Place], layout: Layout, scaling: Any, target: Target) -> Change:
    """A checked pair; ``scaling`` gives the scale of a rank, where the file does not hold an alpha for the layer."""
    down, up = (np.asarray(pair.tensors[name]) for name in ("down", "up"))
    theirs = torch_shape(layout, [target.structure.shape(place) for place in places])
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
    return Change(module, places, layout, down.astype(np.float32), up)


def _tree(changes: list[Change], structure: Structure) -> Tree:
    flat: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for change in changes:
        for place in change.places:
            ranks[place.path] = max(ranks.get(place.path, 0), len(change.down))
    for _, places, layout, down, up in changes:
        parts = split_up(up, layout, [structure.shapes[place.path][-1] for place in places])
        for place, part in zip(places, parts, strict=True):
            *lead, inputs, outputs = structure.shapes[place.path]
            a, b = (f"{place.path}/{name}" for name in "ab")
            if a not in flat:
                flat[a] = np.zeros((*lead, inputs, ranks[place.path]), np.float32)
                flat[b] = np.zeros((*lead, ranks[place.path], outputs), np.float32)
            index = ... if place.copy is None else place.copy
            flat[a][index][:, : len(down)], flat[b][index][: len(down)] = down.reshape(len(down), -1).T, part
    return unflatten_dict({path: jnp.asarray(x) for path, x in flat.items()}, sep="/")


def _theirs(adapters: Tree, target: Target, scale: float) -> dict[str, np.ndarray]:
    flat = {path: np.asarray(x) for path, x in flatten_dict(adapters, sep="/").items()}
    tensors, written = {}, set()
    for name, (places, layout) in locations(target.table, target.structure).items():
        changes = [_factors(flat, place, scale) for place in places]
        if layout.outputs is None or changes == [None] * len(places):
            continue
        written.update(place.path for place in places)
        down, parts = stand_together(changes, [target.structure.shapes[place.path][-1] for place in places])
        if down.shape[1]:  # a layer of a stack may have no change
            up = join_up(parts, layout)
            theirs = {"A": down.T.reshape(*down.T.shape, *up.shape[2:]), "B": up}
            for letter, matrix in theirs.items():
                tensors[name.replace(".weight", f".lora_{letter}.weight")] = np.ascontiguousarray(matrix)
    if lost := sorted({path.rpartition("/")[0] for path in flat} - written):
        raise InputError(f"there is an adapter at {lost[0]}, where files have no dense kernel of their own")
    if not tensors:
        raise InputError("the adapters hold no number but 0; adapters that were trained are needed")
    return tensors


def _factors(flat: Mapping[str, np.ndarray], place: Place, scale: float) -> Factors | None:
    """The adapter of one layer's kernel, its scale in ``b``."""
    if f"{place.path}/a" not in flat:
        return None
    a, b = (flat[f"{place.path}/{name}"][... if place.copy is None else place.copy] for name in "ab")
    return Factors(a, (b * scale).astype(b.dtype))


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
