"""Frozen trees of a run: written once beside its checkpoints, never again with each of them."""

from typing import Any

import jax
from etils import epath

from fmzoo.errors import InputError


def keep_frozen(folder: epath.PathLike, frozen: dict[str, Any]) -> None:
    """Writes each tree to ``folder/NAME``, unless a complete one is there already.

    Args:
      folder: ``frozen/`` of a run.
      frozen: trees of arrays by name. Leave out those that can be loaded again from a source of their own.
    """
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as writer:
        for name, tree in frozen.items():
            if not (epath.Path(folder) / name).exists():  # Orbax writes beside it and renames
                writer.save(epath.Path(folder) / name, tree)


def load_frozen(folder: epath.PathLike, like: dict[str, Any]) -> dict[str, Any]:
    """The trees that `keep_frozen` wrote.

    Args:
      folder: ``frozen/`` of a run.
      like: trees of the same shapes, placed as the result shall be (arrays, or shapes with shardings).

    Raises:
      InputError: one is not there.
    """
    import orbax.checkpoint as ocp

    found = {}
    with ocp.StandardCheckpointer() as reader:
        for name, tree in like.items():
            path = epath.Path(folder) / name
            if not path.exists():
                raise InputError(f"{path} is not there; a run that kept the frozen tree {name!r} is needed")
            found[name] = reader.restore(path, jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
    return found
