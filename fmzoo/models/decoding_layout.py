"""Parameters laid out for decoding: kernels transposed, projections of one input joined."""

from typing import Any

import jax
import jax.numpy as jnp

from fmzoo.models.narrow import Narrow, hold
from fmzoo.models.projection import Node
from fmzoo.models.quantized import Int8Kernel
from fmzoo.models.transposed import Transposed

KERNELS = ("kernel", "head", "tied_head")


def transpose_kernels(params: Any) -> Any:
    """A copy of a decoder's parameters, layers unstacked, with kernels ``[D, F]`` held transposed.

    They become `Transposed`, those in 8 or 16 bits `Narrow`; other nodes stay as they are. An embedding in 16 bits that
    is the head too is held a second time as that.
    """
    tied = isinstance(params, dict) and "embed" in params and not {"head", "tied_head"} & set(params)
    if tied and _is_narrow(params["embed"]):
        params = {**params, "tied_head": params["embed"].T}
    return _transpose(params)


def _transpose(params: Any) -> Any:
    if isinstance(params, list):
        return [_transpose(layer) for layer in params]
    if not isinstance(params, dict):
        return params
    return {name: _turn(part) if name in KERNELS else _transpose(part) for name, part in params.items()}


def _turn(kernel: Any) -> Any:
    if (isinstance(kernel, Node) and not isinstance(kernel, Int8Kernel)) or len(kernel.shape) != 2:
        return kernel  # adapters have no shape
    if isinstance(kernel, Int8Kernel):
        return Narrow(kernel.values.T, kernel.scales.T.astype(jnp.float32))
    return hold(kernel) if _is_narrow(kernel) else Transposed(kernel.T)


def _is_narrow(array: Any) -> bool:
    return array.dtype.itemsize < jnp.dtype(jnp.float32).itemsize


JOINED = {"attention": ("query", "key", "value"), "mlp": ("gate", "up")}


def join_projections(params: Any) -> Any:
    """A copy of the parameters with projections of one input held as one, ``query_key_value`` and ``gate_up``.

    Decoding then waits for fewer, larger products. Nodes other than kernels in 8 bits stay as they are. Not for weights
    whose features are split over devices, since the parts would not be.
    """
    if isinstance(params, list):
        return [join_projections(layer) for layer in params]
    if not isinstance(params, dict):
        return params
    params = {name: join_projections(part) for name, part in params.items()}
    for owner, names in JOINED.items():
        parts = [params.get(owner, {}).get(name) for name in names]
        if all(isinstance(part, dict) for part in parts) and _may_join([part["kernel"] for part in parts]):
            joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *parts)
            rest = {name: part for name, part in params[owner].items() if name not in names}
            params[owner] = {**rest, "_".join(names): joined}
    return params


def _may_join(kernels: list[Any]) -> bool:
    """Whether kernels are all arrays, or all in 8 bits and cut into the same blocks."""
    if any(isinstance(kernel, Int8Kernel) for kernel in kernels):
        blocks = {kernel.scales.shape[-2] if isinstance(kernel, Int8Kernel) else None for kernel in kernels}
        return len(blocks) == 1
    return not any(isinstance(kernel, Node) for kernel in kernels)
