"""Low-rank adapters over a frozen base: what is trained is a small tree, what runs is the base with nodes in it."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fmzoo.errors import InputError
from fmzoo.models.projection import Lora, as_array

Array = jax.Array
Tree = dict[str, Any]


def init_lora(key: Array, base: Tree, rank: int, targets: str = r"attention/(query|value)") -> Tree:
    """Adapters for every kernel whose path matches: ``A`` normal of variance ``1 / D``, ``B`` zero: no change yet.

    Args:
      key: a typed key.
      base: parameters of a decoder; kernels are ``[D, F]``, or ``[n, D, F]`` where layers are stacked.
      rank: r.
      targets: a regular expression found in the path of the layer that holds the kernel.

    Returns:
      A tree with ``{"kernel": {"a": [..., D, r], "b": [..., r, F]}}`` at the places that matched.

    Raises:
      InputError: nothing matches, or the rank is below 1.
    """
    if rank < 1:
        raise InputError(f"lora rank is {rank}; at least 1 is needed")
    count = 0

    def adapter(path: str, kernel: Array) -> Tree | None:
        nonlocal count
        if not re.search(targets, path):
            return None
        count += 1
        *lead, inputs, outputs = kernel.shape
        a = jax.random.normal(jax.random.fold_in(key, count), (*lead, inputs, rank), kernel.dtype) * inputs**-0.5
        return {"a": a, "b": jnp.zeros((*lead, rank, outputs), kernel.dtype)}

    adapters = _at_kernels(base, adapter)
    if not count:
        raise InputError(
            f"lora targets {targets!r} match no kernel; a pattern such as attention/(query|value) is needed"
        )
    return adapters


def _at_kernels(tree: Tree, make: Callable[[str, Any], Tree | None], path: str = "") -> Tree:
    out = {}
    for name, value in tree.items():
        if name == "kernel":
            made = make(path, value)
        else:
            made = _at_kernels(value, make, f"{path}/{name}" if path else name) if isinstance(value, dict) else None
        if made:
            out[name] = made
    return out


def join(base: Tree, adapters: Tree, scale: float = 1.0) -> Tree:
    """The base with a `Lora` node wherever there is an adapter; no array is copied.

    Args:
      base: parameters.
      adapters: of `init_lora`.
      scale: ``alpha / r``, or ``alpha / sqrt(r)``.
    """
    if adapters.keys() == {"a", "b"}:
        return Lora(base, adapters["a"], adapters["b"], scale)
    return {name: join(value, adapters[name], scale) if name in adapters else value for name, value in base.items()}


def merge(base: Tree, adapters: Tree, scale: float = 1.0) -> Tree:
    """The base with ``W + A B * scale`` in place of each adapted kernel: new arrays there, the base's own elsewhere.

    A new array has the dtype of the kernel that it replaces, or float32 where that is a node in fewer bits.
    """
    if adapters.keys() == {"a", "b"}:
        kernel = as_array(base)
        return (kernel + jnp.matmul(adapters["a"], adapters["b"]) * scale).astype(kernel.dtype)
    return {name: merge(value, adapters[name], scale) if name in adapters else value for name, value in base.items()}


def separate(params: Tree) -> tuple[Tree, Tree]:
    """The inverse of `join`: the base, and the adapters of its `Lora` nodes with their scales in ``b``."""
    if isinstance(params, Lora):
        return params.kernel, {"a": params.a, "b": params.b * params.scale}
    if not isinstance(params, dict):
        return params, {}
    pairs = {name: separate(value) for name, value in params.items()}
    adapters = {name: found for name, (_, found) in pairs.items() if found}
    return {name: base for name, (base, _) in pairs.items()}, adapters
