"""One step, three ways to run it on many devices: `compile` (jit with shardings), `shard` (shard_map), `pmap`."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from fmzoo.errors import InputError
from fmzoo.parallel.mesh import check_rows, place_batch
from fmzoo.parallel.rules import Rules, place, put, replicated, state_shardings

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
AXIS = "batch"  # the axis that explicit collectives sum over


def total(tree: Any) -> Any:
    """Sums a tree over the devices of `shard` or `pmap`; elsewhere there is nothing to sum and it is as it was."""
    return jax.lax.psum(tree, AXIS) if _bound() else tree


def sharing() -> int:
    """How many devices share the rows of a batch under `shard` or `pmap`, each seeing its own alone; elsewhere 1."""
    return jax.lax.axis_size(AXIS) if _bound() else 1


def _bound() -> bool:
    try:
        jax.lax.axis_size(AXIS)
    except NameError:
        return False
    return True


def compile(step: Step, mesh: Mesh, rules: Rules | None = None, *, donate: bool = True) -> Step:  # noqa: A001
    """``jax.jit`` of a step on a mesh: parameters split by the rules, rows of the batch over ``data`` and ``fsdp``.

    The state is put where it belongs when it is not there yet, and donated; frozen trees are put there once. Put them
    there yourself with `place` to keep the memory of the originals. Batches may be arrays of this process's rows. The
    result is called like the step; its attribute ``lower`` takes arrays or shapes and gives what ``jax.jit(...).lower``
    gives.

    Args:
      step: ``(state, frozen, batch) -> (state, metrics)``.
      mesh: of `fmzoo.parallel.mesh`.
      rules: of the model family; None puts every parameter on every device.
      donate: give the state's memory to the result.
    """
    built: dict[Any, Any] = {}
    settle = _settler(mesh, rules)

    def build(state: Any) -> tuple[Any, Any]:
        """The state's shardings and the jitted step, once for each kind of state: rules take time to read."""
        leaves, structure = jax.tree.flatten(state)
        key = (structure, tuple(leaf.shape for leaf in leaves))
        if key not in built:
            shardings = replicated(state, mesh) if rules is None else state_shardings(state, mesh, rules)
            jitted = jax.jit(step, donate_argnums=(0,) if donate else (), out_shardings=(shardings, None))
            built[key] = shardings, jitted
        return built[key]

    def run(state: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
        shardings, jitted = build(state)
        with jax.set_mesh(mesh):
            return jitted(put(state, shardings), settle(frozen), place_batch(batch, mesh))

    def lower(state: Any, frozen: Any, batch: Any) -> Any:
        with jax.set_mesh(mesh):
            return build(state)[1].lower(state, frozen, batch)

    run.lower = lower
    return run


def shard(step: Step, devices: Any = None, *, donate: bool = True) -> Step:
    """``jax.shard_map`` of a step: each device has its rows and a whole state, and sums are explicit collectives.

    Args:
      step: as in `compile`.
      devices: None takes all of them, those of other processes too.
      donate: give the state's memory to the result.
    """
    devices = np.asarray(jax.devices() if devices is None else devices).reshape(-1)
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P(AXIS)), out_specs=(P(), P()), check_vma=False)
    jitted = jax.jit(mapped, donate_argnums=(0,) if donate else ())
    settle = _settler(mesh)

    def run(state: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
        return jitted(place(state, mesh), settle(frozen), place_batch(batch, mesh, (AXIS,)))

    return run


def pmap(step: Step, devices: Any = None, *, donate: bool = True) -> Step:
    """``jax.pmap`` of a step, called like the step itself: the state is on every device, rows are split.

    JAX keeps `pmap` in maintenance; new code is better served by `compile`.

    Args:
      step: as in `compile`.
      devices: None takes all of them.
      donate: give the state's memory to the result.

    Raises:
      InputError: there are several processes, whose sums it would not join.
    """
    if jax.process_count() > 1:
        raise InputError(f"pmap runs in one process and there are {jax.process_count()}; compile or shard is needed")
    devices = list(jax.devices() if devices is None else devices)
    axes = {"in_axes": (None, None, 0), "out_axes": (None, None)}
    mapped = jax.pmap(step, AXIS, **axes, devices=devices, donate_argnums=(0,) if donate else ())
    mesh = Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
    settle = _settler(mesh)

    def run(state: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
        def split(value: Any) -> Any:
            check_rows(value.shape[0], len(devices), "devices")
            return value.reshape(len(devices), -1, *value.shape[1:])

        return mapped(place(state, mesh), settle(frozen), {name: split(value) for name, value in batch.items()})

    return run


def _settler(mesh: Mesh, rules: Rules | None = None) -> Callable[[Any], Any]:
    """A function that puts frozen trees on the mesh: the same trees only once, and leaves that are there not at all."""
    last: dict[str, Any] = {"given": [], "placed": None}

    def settle(frozen: Any) -> Any:
        leaves, structure = jax.tree.flatten(frozen)
        given = [structure, *leaves]
        if len(given) != len(last["given"]) or not all(map(_same, given, last["given"])):
            last.update(given=given, placed=place(frozen, mesh, rules, move=False))
        return last["placed"]

    return settle


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, jax.tree_util.PyTreeDef) and a == b)
