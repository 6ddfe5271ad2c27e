"""Meshes by name, and where the batch goes on them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fmzoo.errors import InputError, nearest

AXES = ("data", "fsdp", "tensor", "expert")
BATCH_AXES = ("data", "fsdp")  # rows of the batch are split over both


def parse_mesh(text: str) -> dict[str, int]:
    """``"fsdp=4,tensor=2"`` as ``{"fsdp": 4, "tensor": 2}``.

    Raises:
      InputError: an axis is unknown or named twice, or a size is no integer.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = part.strip().partition("=")
        if name not in AXES:
            raise InputError(f"mesh has an axis {name!r}; {nearest(name, AXES)}")
        if name in sizes:
            raise InputError(f"mesh {text!r} names {name} twice; each axis once is needed")
        if not re.fullmatch(r"-?[0-9]{1,9}", size):
            raise InputError(f"mesh axis {name} is {size!r}; a whole number is needed, as in fsdp=4,tensor=2")
        sizes[name] = int(size)
    return sizes


def mesh(sizes: Mapping[str, int] | str | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes ``data, fsdp, tensor, expert``; an axis not named has size 1.

    Args:
      sizes: size by axis, as a mapping or as ``"fsdp=4,tensor=2"``; one may be -1, which takes what is left. None puts
        all devices on ``data``.
      devices: None takes all of them.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    sizes = parse_mesh(sizes) if isinstance(sizes, str) else dict({"data": -1} if sizes is None else sizes)
    devices = np.asarray(jax.devices() if devices is None else devices)
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes = {name: devices.size // max(known, 1) if size == -1 else size for name, size in sizes.items()}
    shape = [sizes.get(name, 1) for name in AXES]
    if set(sizes) - set(AXES) or min(shape) < 1 or math.prod(shape) != devices.size:
        given = ",".join(f"{k}={v}" for k, v in sizes.items())
        raise InputError(
            f"mesh {given} does not fill {devices.size} devices; sizes of {AXES} with that product are needed"
        )
    return Mesh(devices.reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_rows(rows: int, parts: int, what: str) -> None:
    """Refuses a batch that does not divide.

    Raises:
      InputError: ``rows`` is not a multiple of ``parts``.
    """
    if rows % parts:
        near = max(rows // parts, 1) * parts
        raise InputError(
            f"batch of {rows} rows is not divisible by {parts} {what}; a multiple such as {near} is needed"
        )


def place_batch(batch: Mapping[str, Any], mesh: Mesh, axes: Sequence[str] = BATCH_AXES) -> dict[str, jax.Array]:
    """Puts this process's rows of a global batch onto the mesh, rows split over the batch axes.

    Args:
      batch: ``{field: [B, ...]}``, B being this process's rows: all of them where there is one process.
      mesh: of `mesh`.
      axes: that split the rows, those of them that the mesh has.

    Raises:
      InputError: the rows do not divide by the devices that share them.
    """
    axes = tuple(axis for axis in axes if axis in mesh.shape)
    sharding = NamedSharding(mesh, P(axes))
    parts = math.prod(mesh.shape[axis] for axis in axes)
    processes = jax.process_count()

    def place(value: Any) -> jax.Array:
        if isinstance(value, jax.Array) and value.sharding == sharding:
            return value
        check_rows(value.shape[0] * processes, parts, "devices")
        return jax.make_array_from_process_local_data(sharding, np.asarray(value))

    return {name: place(value) for name, value in batch.items()}


def constrain_rows(x: jax.Array) -> jax.Array:
    """Keeps the rows of an activation split over the batch axes of the mesh that is set, if one is.

    Without it the partitioner may split activations as the weights are split and then sum over devices instead.
    """
    ambient = jax.sharding.get_abstract_mesh()
    auto = [n for n, t in zip(ambient.axis_names, ambient.axis_types, strict=True) if t == AxisType.Auto]
    axes = tuple(axis for axis in BATCH_AXES if axis in auto)
    if not axes or x.shape[0] % math.prod(ambient.shape[axis] for axis in axes):
        return x
    return jax.lax.with_sharding_constraint(x, P(axes, *(P.UNCONSTRAINED,) * (x.ndim - 1)))
