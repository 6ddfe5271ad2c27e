"""Layers of one kind, stored with a leading axis of their number, run by scan or one after another."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from fmzoo.models.cache import split_layers

Array = jax.Array
Tree = dict[str, Any]
T = TypeVar("T")
REMAT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def init_stack(key: Array, make: Callable[[Array], Tree], copies: int) -> Tree:
    """Parameters ``[n, ...]`` of ``copies`` layers, each made by ``make`` from a key of its own."""
    return jax.vmap(make)(jax.random.split(key, copies))


def run_stack(run: Callable[[Tree, T], T], params: Tree, x: T, *, layers: str, remat: str) -> T:
    """``x`` after every layer in turn.

    Args:
      run: ``(a layer's parameters, x) -> x``, of the same structure, shapes and dtypes.
      params: of all layers, ``[n, ...]``.
      x: what the layers change: an array or a tree of them.
      layers: ``scan`` is compiled once for all layers, ``unrolled`` once for each.
      remat: what the backward pass computes again: ``none``, ``dots`` (all but products of weights) or ``full``.
    """
    if remat != "none":
        run = jax.checkpoint(run, policy=REMAT[remat], prevent_cse=layers == "unrolled")
    if layers == "scan":
        return jax.lax.scan(lambda x, layer: (run(layer, x), None), x, params)[0]
    for layer in split_layers({"0": params}):
        x = run(layer["0"], x)
    return x
