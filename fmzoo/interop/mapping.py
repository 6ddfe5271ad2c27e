"""Weights between two layouts: one declarative table, and the two directions derived from it.

A row says which arrays of ours are which tensors of theirs, and how one becomes the other. Rows are written once for a
family: a row whose arrays the model does not have (a bias, a norm, an untied head) does not apply, and in the end every
array of ours and every tensor of theirs must have been used exactly once.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fmzoo.errors import InputError
from fmzoo.interop.structure import Place, Structure

Array = Any  # numpy or JAX
Shape = tuple[int, ...]
Tree = dict[str, Any]


class Layout(NamedTuple):
    """How tensors of theirs become arrays of ours, and back, for all of the row's names at once.

    Attributes:
      to_ours: ``(their tensors, our shapes) -> our arrays``.
      to_theirs: ``our arrays -> their tensors``; also run on tracers, which tells the shapes of theirs.
    """

    to_ours: Callable[[list[Array], list[Shape]], list[Array]]
    to_theirs: Callable[[list[Array]], list[Array]]


AS_IS = Layout(lambda theirs, shapes: theirs, lambda ours: ours)
TRANSPOSED = Layout(lambda theirs, shapes: [x.T for x in theirs], lambda ours: [x.T for x in ours])
CONVOLUTION = Layout(  # OIHW there, HWIO here
    lambda theirs, shapes: [x.transpose(2, 3, 1, 0) for x in theirs],
    lambda ours: [x.transpose(3, 2, 0, 1) for x in ours],
)
POINTWISE = Layout(  # a 1x1 convolution there, a dense kernel here
    lambda theirs, shapes: [x[:, :, 0, 0].T for x in theirs],
    lambda ours: [x.T[:, :, None, None] for x in ours],
)


def joined(axis: int, first: Layout = AS_IS) -> Layout:
    """One tensor of theirs holds several arrays of ours one after another along an axis of ours, ``first`` applied."""

    def split(theirs: list[Array], shapes: list[Shape]) -> list[Array]:
        (whole,) = first.to_ours(theirs, shapes)
        return np.split(whole, np.cumsum([shape[axis] for shape in shapes])[:-1], axis=axis)

    def join(ours: list[Array]) -> list[Array]:
        return first.to_theirs([ours[0].__array_namespace__().concat(ours, axis=axis)])

    return Layout(split, join)


@functools.cache
def joined_by_head(head_dim: int, first: Layout = AS_IS) -> Layout:
    """One tensor of theirs holds several arrays of ours, head by head: ``[..., N, arrays, H]``, ``first`` applied."""

    def split(theirs: list[Array], shapes: list[Shape]) -> list[Array]:
        (whole,) = first.to_ours(theirs, shapes)
        heads = whole.reshape(*whole.shape[:-1], -1, len(shapes), head_dim)
        return [heads[..., i, :].reshape(shape) for i, shape in enumerate(shapes)]

    def join(ours: list[Array]) -> list[Array]:
        heads = [x.reshape(*x.shape[:-1], -1, head_dim) for x in ours]
        whole = ours[0].__array_namespace__().stack(heads, axis=-2)
        return first.to_theirs([whole.reshape(*ours[0].shape[:-1], -1)])

    return Layout(split, join)


@dataclasses.dataclass(frozen=True)
class Row:
    """Which arrays of ours are which tensors of theirs.

    Attributes:
      ours: a path such as ``final_norm/scale``, or ``layers/{i}/mlp/up/kernel`` within layer i of a stack; or several.
      theirs: a name, with ``{i}`` for the layer's number, or for its name if the structure has one; or several.
      layout: how one becomes the other.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    layout: Layout = AS_IS


def torch_linear(ours: str, theirs: str) -> tuple[Row, Row]:
    """The rows of a layer with a kernel ``[in, out]`` here and ``[out, in]`` there, and of its bias."""
    return Row(f"{ours}/kernel", f"{theirs}.weight", TRANSPOSED), Row(f"{ours}/bias", f"{theirs}.bias")


def torch_convolution(ours: str, theirs: str, layout: Layout = CONVOLUTION) -> tuple[Row, Row]:
    """The rows of a convolution and its bias."""
    return Row(f"{ours}/kernel", f"{theirs}.weight", layout), Row(f"{ours}/bias", f"{theirs}.bias")


def torch_norm(ours: str, theirs: str) -> tuple[Row, Row]:
    """The rows of a norm's scale and bias."""
    return Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")


@dataclasses.dataclass(frozen=True)
class Table:
    """A family's mapping.

    Attributes:
      rows: every array of ours, options included.
      renames: ``(beginning of a name in files, what it stands for in the rows)``; the first that fits counts.
      ignored: names that hold no weight of ours; ``{i}`` is any number and ``*`` anything.
      copies: ``(name, another)``: a tied tensor that a file may hold a second time, and then must hold the same.
    """

    rows: tuple[Row, ...]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()


class Match(NamedTuple):
    """A row in one layer: the places of ours and the names of theirs."""

    ours: list[Place]
    theirs: list[str]


def to_ours(
    table: Table,
    structure: Structure,
    tensors: Mapping[str, Array],
    dtype: Any = np.float32,
    place: Callable[[str, np.ndarray], Array] = lambda path, array: jnp.asarray(array),
) -> Tree:
    """Parameters of ours from tensors of theirs, one leaf at a time.

    Args:
      table: the family's mapping.
      structure: of the model's parameters.
      tensors: anything with a shape that ``numpy.asarray`` reads, by name; each is read once.
      dtype: of the parameters.
      place: puts a finished leaf, given its path and a NumPy array, where it shall live.

    Returns:
      The tree of parameters.

    Raises:
      InputError: a tensor is missing, unexpected, of another shape, or no floating-point number.
    """
    tensors, plan = _rename(table, tensors), list(_plan(table, structure))
    _check_names(table, plan, tensors)
    _check_tensors(structure, plan, tensors)
    flat = {}
    for row, matches in plan:
        paths = {place.path for match in matches for place in match.ours}
        leaves = {path: np.empty(structure.shapes[path], dtype) for path in paths}
        for ours, theirs in matches:
            read = [np.asarray(tensors[name]) for name in theirs]
            arrays = row.layout.to_ours(read, [structure.shape(at) for at in ours])
            for at, array in zip(ours, arrays, strict=True):
                leaves[at.path][... if at.copy is None else at.copy] = array
        flat |= {path: place(path, leaves.pop(path)) for path in sorted(paths)}
    return unflatten_dict(flat, sep="/")


def to_theirs(table: Table, structure: Structure, params: Tree) -> dict[str, np.ndarray]:
    """Tensors of theirs, by name, from parameters of ours; views where the layout allows.

    Raises:
      InputError: the parameters are not arrays of the structure's shapes.
    """
    flat = flatten_dict(params, sep="/")
    for path in sorted(structure.shapes.keys() | flat.keys()):
        leaf, needed = flat.get(path), structure.shapes.get(path)
        if not isinstance(leaf, np.ndarray | jax.Array) or leaf.shape != needed:
            found = f"is a {type(leaf).__name__}" if not hasattr(leaf, "shape") else f"has shape {leaf.shape}"
            raise InputError(f"parameter {path} {found}; an array of shape {needed} is needed")
    tensors, flat = {}, {path: np.asarray(leaf) for path, leaf in flat.items()}
    for row, matches in _plan(table, structure):
        for ours, theirs in matches:
            arrays = [flat[at.path] if at.copy is None else flat[at.path][at.copy] for at in ours]
            tensors.update(zip(theirs, row.layout.to_theirs(arrays), strict=True))
    return tensors


def locations(table: Table, structure: Structure) -> dict[str, tuple[Place, Layout]]:
    """Where the kernel is that a tensor of theirs stands for, and how one becomes the other, by the tensor's name.

    Only of kernels that are one tensor there.
    """
    found = {}
    for row, matches in _plan(table, structure):
        for ours, theirs in matches:
            if len(ours) == len(theirs) == 1 and ours[0].path.endswith("/kernel"):
                found[theirs[0]] = (ours[0], row.layout)
    return found


def _plan(table: Table, structure: Structure) -> Iterator[tuple[Row, list[Match]]]:
    """The rows that apply, each with its matches; every place of ours must be used exactly once."""
    left = structure.places()
    for row in table.rows:
        ours, theirs = ((n,) if isinstance(n, str) else n for n in (row.ours, row.theirs))
        stack, _, rest = ours[0].partition("/{i}/")
        matches = []
        for layer in range(len(structure.stacks[stack])) if rest else (None,):
            name = structure.name(stack, layer)
            match = Match([structure.locate(path, layer) for path in ours], [n.format(i=name) for n in theirs])
            if left.issuperset(match.ours):
                matches.append(match)
                left.difference_update(match.ours)
        if matches:
            yield row, matches
    if left:
        raise InputError(f"no row of the mapping gives the parameters {_first(p.path for p in left)}")


def _rename(table: Table, tensors: Mapping[str, Array]) -> dict[str, Array]:
    renamed = {}
    for name, tensor in tensors.items():
        start, full = next((pair for pair in table.renames if name.startswith(pair[0])), ("", ""))
        if (name := full + name.removeprefix(start)) in renamed:
            raise InputError(f"two tensors stand for {name}; one is needed")
        renamed[name] = tensor
    return renamed


def _check_names(table: Table, plan: list[tuple[Row, list[Match]]], tensors: Mapping[str, Array]) -> None:
    needed = {name for _, matches in plan for match in matches for name in match.theirs}
    if missing := needed - tensors.keys():
        raise InputError(f"tensors are missing: {_first(missing)}")
    patterns = [re.escape(p).replace(r"\{i\}", r"\d+").replace(r"\*", ".*") for p in table.ignored]
    ignored = re.compile("|".join(patterns) or "(?!)")
    extra = {name for name in tensors.keys() - needed if not ignored.fullmatch(name)}
    for copy, original in table.copies:
        if copy in extra and original in needed:
            extra.remove(copy)
            if not np.array_equal(tensors[copy], tensors[original]):
                raise InputError(f"tensor {copy} differs from {original}; the config ties them, so they must be equal")
    if extra:
        raise InputError(f"tensors are not expected by the config: {_first(extra)}")


def _check_tensors(structure: Structure, plan: list[tuple[Row, list[Match]]], tensors: Mapping[str, Array]) -> None:
    for row, matches in plan:
        for ours, theirs in matches:
            needed = _their_shapes(row.layout, tuple(structure.shape(at) for at in ours))
            for name, shape in zip(theirs, needed, strict=True):
                if tuple(tensors[name].shape) != shape:
                    raise InputError(f"tensor {name} has shape {tuple(tensors[name].shape)}; {shape} is needed")
                if not jnp.issubdtype(tensors[name].dtype, jnp.floating):
                    raise InputError(f"tensor {name} holds {tensors[name].dtype}; floating-point numbers are needed")


@functools.lru_cache(maxsize=1024)
def _their_shapes(layout: Layout, ours: tuple[Shape, ...]) -> list[Shape]:
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ours]
    return [leaf.shape for leaf in jax.eval_shape(layout.to_theirs, shapes)]


def _first(names: Any) -> str:
    names = sorted(set(names))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
