"""Weights between two layouts: one declarative table, and the two directions derived from it.

A row says which arrays of ours are which tensors of theirs, and how one becomes the other. Rows are written once for a
family: a row whose arrays the model does not have (a bias, a norm, an untied head) does not apply, and in the end every
array of ours and every tensor of theirs must have been used exactly once.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fmzoo.errors import InputError
from fmzoo.interop.layouts import AS_IS, CONVOLUTION, TRANSPOSED, Array, Layout, Shape
from fmzoo.interop.stored import Piece, Stored, Twin, Unmade, as_jax
from fmzoo.interop.structure import Place, Structure

Tree = dict[str, Any]


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


class Unit(NamedTuple):
    """The smallest part of a mapping: arrays of ours by path and index, their shapes, and the names of theirs."""

    paths: list[str]
    at: tuple[int, ...]
    shapes: tuple[Shape, ...]
    theirs: list[str]
    layout: Layout


def to_ours(
    table: Table,
    structure: Structure,
    tensors: Mapping[str, Array],
    dtype: Any = np.float32,
    place: Callable[[str, Stored], Any] = as_jax,
) -> Tree:
    """Parameters of ours from tensors of theirs, one leaf at a time.

    Args:
      table: the family's mapping.
      structure: of the model's parameters.
      tensors: anything with a shape and a dtype that ``numpy.asarray`` reads, by name; each is read once.
      dtype: of the parameters; None is what the tensors have.
      place: makes of a leaf, given its path, what the tree shall hold: `numpy.asarray` reads it, `Stored.place` puts it
        on a mesh, and left as it is it is read later.

    Returns:
      The tree of parameters.

    Raises:
      InputError: a tensor is missing, unexpected, of another shape, or no floating-point number.
    """
    tensors, units = _rename(table, tensors), list(_units(table, structure))
    tensors = _check_names(table, units, tensors)
    _check_tensors(units, tensors)
    pieces: dict[str, list[Piece]] = {}
    for unit in units:
        found = tuple(tensors[name] for name in unit.theirs)
        for number, path in enumerate(unit.paths):
            pieces.setdefault(path, []).append(Piece(unit.at, found, unit.layout, number, unit.shapes))
    flat = {}
    for path, parts in pieces.items():
        kind = np.dtype(dtype) if dtype is not None else _dtype(x for part in parts for x in part.tensors)
        flat[path] = place(path, Stored(structure.shapes[path], kind, tuple(parts)))
    return unflatten_dict(flat, sep="/")


def to_theirs(table: Table, structure: Structure, params: Tree) -> dict[str, Unmade]:
    """Tensors of theirs, by name, from parameters of ours; each is made when ``numpy.asarray`` asks for it.

    Raises:
      InputError: the parameters are not arrays of the structure's shapes.
    """
    flat = flatten_dict(params, sep="/")
    for path in sorted(structure.shapes.keys() | flat.keys()):
        leaf, needed = flat.get(path), structure.shapes.get(path)
        if not isinstance(leaf, np.ndarray | jax.Array | Stored) or leaf.shape != needed:
            found = f"is a {type(leaf).__name__}" if not hasattr(leaf, "shape") else f"has shape {leaf.shape}"
            raise InputError(f"parameter {path} {found}; an array of shape {needed} is needed")
    tensors = {}
    for unit in _units(table, structure):
        leaves = tuple((flat[path], unit.at) for path in unit.paths)
        kind, shapes = _dtype(leaf for leaf, _ in leaves), their_shapes(unit.layout, unit.shapes)
        for number, (name, shape) in enumerate(zip(unit.theirs, shapes, strict=True)):
            tensors[name] = Unmade(shape, kind, leaves, unit.layout, number)
    return tensors


def locations(table: Table, structure: Structure) -> dict[str, tuple[list[Place], Layout]]:
    """Where the kernel is that a tensor of theirs stands for, and how one becomes the other, by the tensor's name.

    Only of kernels that are one tensor there; of several here, where that holds them side by side. What is transposed
    is a kernel, whatever it is called.
    """
    found = {}
    for row, matches in _plan(table, structure):
        for ours, theirs in matches:
            kernel = row.layout is TRANSPOSED or ours[0].path.endswith("/kernel")
            if len(theirs) == 1 and kernel and not row.layout.stacked:
                found[theirs[0]] = (ours, row.layout)
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


def _units(table: Table, structure: Structure) -> Iterator[Unit]:
    """Every match, and of one that stacks tensors each of these by itself."""
    for row, matches in _plan(table, structure):
        for ours, theirs in matches:
            paths, shapes = [at.path for at in ours], tuple(structure.shape(at) for at in ours)
            at = () if ours[0].copy is None else (ours[0].copy,)
            if not row.layout.stacked:
                yield Unit(paths, at, shapes, theirs, row.layout)
                continue
            for number, name in enumerate(theirs):
                yield Unit(paths, (*at, number), tuple(shape[1:] for shape in shapes), [name], row.layout)


def _rename(table: Table, tensors: Mapping[str, Array]) -> dict[str, Array]:
    renamed = {}
    for name, tensor in tensors.items():
        start, full = next((pair for pair in table.renames if name.startswith(pair[0])), ("", ""))
        if (name := full + name.removeprefix(start)) in renamed:
            raise InputError(f"two tensors stand for {name[:80]!r}; one is needed")
        renamed[name] = tensor
    return renamed


def _check_names(table: Table, units: list[Unit], tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors, those that are held twice to be compared when they are read."""
    needed, tensors = {name for unit in units for name in unit.theirs}, dict(tensors)
    if missing := needed - tensors.keys():
        raise InputError(f"tensors are missing: {_first(missing)}")
    patterns = [re.escape(p).replace(r"\{i\}", r"\d+").replace(r"\*", ".*") for p in table.ignored]
    ignored = re.compile("|".join(patterns) or "(?!)")
    extra = {name for name in tensors.keys() - needed if not ignored.fullmatch(name)}
    for copy, original in table.copies:
        if copy in extra and original in needed:
            extra.remove(copy)
            message = f"tensor {copy} differs from {original}; the config ties them, so they must be equal"
            if tuple(tensors[copy].shape) != tuple(tensors[original].shape):
                raise InputError(message)
            tensors[original] = Twin(tensors[original], tensors[copy], message)
    if extra:
        raise InputError(f"tensors are not expected by the config: {_first(extra)}")
    return tensors


def _check_tensors(units: list[Unit], tensors: Mapping[str, Array]) -> None:
    for unit in units:
        for name, shape in zip(unit.theirs, their_shapes(unit.layout, unit.shapes), strict=True):
            if tuple(tensors[name].shape) != shape:
                found = str(tuple(tensors[name].shape))[:60]
                raise InputError(f"tensor {name} has shape {found}; {shape} is needed")
            if not jnp.issubdtype(tensors[name].dtype, jnp.floating):
                raise InputError(f"tensor {name} holds {tensors[name].dtype}; floating-point numbers are needed")


def _dtype(arrays: Iterable[Array]) -> np.dtype:
    return functools.reduce(jnp.promote_types, dict.fromkeys(array.dtype for array in arrays))


@functools.lru_cache(maxsize=1024)
def their_shapes(layout: Layout, ours: tuple[Shape, ...]) -> list[Shape]:
    """The shapes of the tensors that arrays of ours become."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ours]
    return [leaf.shape for leaf in jax.eval_shape(layout.to_theirs, shapes)]


def _first(names: Any) -> str:
    names = [repr(name)[1:-1][:80] for name in sorted(set(names))]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
