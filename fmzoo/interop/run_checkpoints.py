"""What is read of a run's newest checkpoint, held to the config beside it."""

from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict

from fmzoo.errors import InputError
from fmzoo.models import init_lora

CHECKPOINTS = "checkpoints"


def read_adapters(folder: epath.Path, values: dict[str, Any], base: Any, average: bool) -> tuple[Any, float]:
    """The newest adapters of a fine-tuning run, and what their product is multiplied by.

    Args:
      folder: of the run.
      values: of ``config.json`` there.
      base: the parameters that they were trained over.
      average: take the moving average.

    Raises:
      InputError: the config or the checkpoint is damaged, or they do not fit each other.
    """
    from fmzoo.train import checkpoints

    rank, alpha, targets = (values.get(name) for name in ("rank", "alpha", "targets"))
    if not (isinstance(rank, int) and isinstance(alpha, int | float) and isinstance(targets, str) and rank > 0):
        raise InputError(f"{folder / 'config.json'} has rank {rank!r} and alpha {alpha!r}; numbers above 0 are needed")
    adapters, step = checkpoints.load_params(folder / CHECKPOINTS, average=average)
    needed = jax.eval_shape(lambda: init_lora(jax.random.key(0), base, rank, targets))
    check_shapes(adapters, needed, folder / CHECKPOINTS / str(step))
    return jax.tree.map(jnp.asarray, adapters), alpha / (rank**0.5 if values.get("rank_stabilized") else rank)


def check_shapes(params: Any, needed: Any, checkpoint: epath.Path) -> None:
    """Refuses parameters that are not those of the config beside them.

    Raises:
      InputError: a shape differs, or a parameter is missing or surplus.
    """
    found, wanted = ({n: leaf.shape for n, leaf in flatten_dict(tree, sep="/").items()} for tree in (params, needed))
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            there, here = found.get(name, "nothing"), wanted.get(name, "nothing")
            raise InputError(f"checkpoint {checkpoint} has {there} at {name}; config.json beside it needs {here}")
