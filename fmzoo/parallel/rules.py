"""Axis rules: a table from a parameter's path to the names of its axes, and from those names to axes of the mesh."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fmzoo.errors import InputError

Axis = str | None


class Rules(NamedTuple):
    """How a family's parameters are split.

    Attributes:
      table: ``(pattern, axes)``: a regular expression of the whole path, parts joined by ``/``, and a name for each
        dimension.
      axes: from such a name to an axis of the mesh, or to None for a dimension that is never split.
    """

    table: tuple[tuple[str, tuple[Axis, ...]], ...]
    axes: Mapping[str, Axis]


def path_of(keys: tuple[Any, ...]) -> str:
    """A JAX key path as ``period/0/mlp/up/kernel``."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)


def spec_of(rules: Rules, path: str, mesh: Mesh, shape: tuple[int, ...]) -> P | None:
    """The partition of one parameter, or None where no row of the table fits its path and rank.

    Raises:
      InputError: several rows fit, or an axis of the mesh does not divide the dimension.
    """
    rows = [axes for pattern, axes in rules.table if len(axes) == len(shape) and re.fullmatch(pattern, path)]
    if len(rows) > 1:
        raise InputError(f"parameter {path} fits {len(rows)} sharding rules; exactly one is needed")
    if not rows:
        return None
    spec = [rules.axes[axis] if axis is not None else None for axis in rows[0]]
    spec = [axis if axis in mesh.shape and mesh.shape[axis] > 1 else None for axis in spec]
    for axis, name, size in zip(spec, rows[0], shape, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise InputError(
                f"mesh axis {axis}={mesh.shape[axis]} does not divide {name}={size} of {path}; a divisor is needed"
            )
    return P(*spec)


def specs(rules: Rules, params: Any, mesh: Mesh) -> Any:
    """A tree of `PartitionSpec` for a tree of parameters (arrays or shapes).

    Raises:
      InputError: a parameter matches no rule or several, or an axis does not divide it.
    """

    def one(keys: tuple[Any, ...], leaf: Any) -> P:
        spec = spec_of(rules, path_of(keys), mesh, leaf.shape)
        if spec is None:
            raise InputError(f"parameter {path_of(keys)} {leaf.shape} matches no sharding rule; exactly one is needed")
        return spec

    return jax.tree_util.tree_map_with_path(one, params)


def state_shardings(state: Any, mesh: Mesh, rules: Rules) -> Any:
    """Shardings for a whole training state: each leaf like the parameter that its path ends with, the rest replicated.

    Adam's moments and a moving average so follow their parameters, and counters, keys and factored moments of another
    shape are on every device.

    Raises:
      InputError: a parameter (anything below a field ``params``) matches no rule.
    """

    def one(keys: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = path_of(keys).split("/")
        for start in range(len(path)):
            rest = "/".join(path[start:])
            if "params" not in path and leaf.shape != trained.get(rest, leaf.shape):
                continue  # a factored moment of that parameter
            spec = spec_of(rules, rest, mesh, leaf.shape)
            if spec is not None:
                return NamedSharding(mesh, spec)
        if "params" in path and math.prod(leaf.shape) > 1:
            raise InputError(f"parameter {'/'.join(path)} {leaf.shape} matches no sharding rule; exactly one is needed")
        return NamedSharding(mesh, P())

    leaves = [(path_of(keys), leaf) for keys, leaf in jax.tree.leaves_with_path(state)]
    trained = {path.rpartition("params/")[2]: leaf.shape for path, leaf in leaves if "params" in path.split("/")}
    return jax.tree_util.tree_map_with_path(one, state)


def replicated(tree: Any, mesh: Mesh) -> Any:
    """Shardings that put every leaf on every device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, P()), tree)


def place(state: Any, mesh: Mesh, rules: Rules | None = None, *, move: bool = True) -> Any:
    """A state, or a tree of parameters, on the mesh: split by the rules, or whole on every device without them.

    Every process must hold the same values.

    Args:
      state: a tree of arrays.
      mesh: of `fmzoo.parallel.mesh`.
      rules: of the model family.
      move: False leaves an array that is on the mesh's devices already as it is, even if the rules split it otherwise.
    """
    there = (lambda a, b: a.device_set == b.device_set) if not move else None
    return put(state, replicated(state, mesh) if rules is None else state_shardings(state, mesh, rules), there)


def put(tree: Any, shardings: Any, there: Callable[[Any, Any], bool] | None = None) -> Any:
    """A tree of arrays with these shardings; one that has an equivalent sharding, or is ``there``, is left as it is."""

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array):
            if leaf.sharding.is_equivalent_to(sharding, leaf.ndim) or (there and there(leaf.sharding, sharding)):
                return leaf
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(one, tree, shardings)
