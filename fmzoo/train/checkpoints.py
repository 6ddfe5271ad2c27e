"""Checkpoints by Orbax: written beside the training, complete or absent, restored onto any mesh."""

import errno
import json
from typing import Any

import jax
import numpy as np
from etils import epath

from fmzoo.errors import InputError
from fmzoo.train.locations import locate


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # three seconds to import, so not before it is used

    return ocp


def complete_steps(folder: epath.PathLike) -> list[int]:
    """The steps of the complete checkpoints in a folder, ascending; what a killed save left does not count."""
    folder = locate(folder)
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdigit()]
    return sorted(int(name) for name in names if (folder / name / "_CHECKPOINT_METADATA").exists())


class Checkpoints:
    """The checkpoints of a run: ``folder/STEP/``, each with the state and the position in the data."""

    def __init__(self, folder: epath.PathLike, keep: int | None = 3, keep_every: int | None = None):
        """Opens a folder, made at the first save.

        Args:
          folder: a path, local or ``gs://``.
          keep: how many of the newest stay; None keeps all.
          keep_every: steps that are multiples of this stay for good.
        """
        self.folder = locate(folder)
        self._keep, self._keep_every = keep, keep_every
        self._manager: Any = None

    def _open(self) -> Any:
        if self._manager is None:
            ocp = _orbax()
            options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, keep_period=self._keep_every, create=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    @property
    def steps(self) -> list[int]:
        """The steps that are complete."""
        return complete_steps(self.folder)

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts writing; the state may be donated as soon as this returns.

        Args:
          step: names the checkpoint.
          state: a tree of arrays.
          data: the position in the data, values that JSON holds; the same on every host (see `gather_json`).

        Raises:
          InputError: there is no room for it, or for the one before. Earlier checkpoints stay whole.
        """
        ocp = _orbax()
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        with _explained(self.folder):
            self._open().save(step, args=args, force=True)

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any], int]:
        """``(state, data position, step)`` of a checkpoint, the newest complete one by default.

        Args:
          like: a state of the same shapes, placed as the result shall be; it may be on another mesh than the saved one.
          step: which one.

        Raises:
          InputError: there is none, or it holds other shapes.
        """
        ocp = _orbax()
        step = self._newest() if step is None else step
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        try:
            found = self._open().restore(step, args=args)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"checkpoint {self.folder / str(step)} does not fit this run: {_first_line(error)}"
            ) from error
        return found.state, found.data, step

    def _newest(self) -> int:
        if not self.steps:
            raise InputError(f"{self.folder} holds no complete checkpoint; a run that has saved one is needed")
        return self.steps[-1]

    def wait(self) -> None:
        """Returns when all that was started is on disk.

        Raises:
          InputError: there was no room.
        """
        if self._manager is not None:
            with _explained(self.folder):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go."""
        if self._manager is not None:
            try:
                self.wait()
            finally:
                self._manager.close()
                self._manager = None


class _explained:  # noqa: N801 -- used as a function
    """Turns a full disk into one sentence."""

    def __init__(self, folder: epath.Path):
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is not None and is_full(error):
            message = (
                f"no space is left for a checkpoint in {self._folder}; free some, and the last complete one goes on"
            )
            raise InputError(message) from error
        return False


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that the disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "RESOURCE_EXHAUSTED: Error writing" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def load_params(folder: epath.PathLike, step: int | None = None, average: bool = False) -> tuple[Any, int]:
    """``(parameters, step)`` of a run as NumPy arrays: the newest complete checkpoint's by default.

    Args:
      folder: of the checkpoints.
      step: which one.
      average: the moving average in place of the parameters.

    Raises:
      InputError: there is no complete checkpoint, no such step, or no moving average.
    """
    ocp, folder = _orbax(), locate(folder)
    steps = complete_steps(folder)
    if not steps or (step is not None and step not in steps):
        wanted = "a complete checkpoint" if step is None else f"step {step}"
        raise InputError(f"{folder} has no {wanted}; it holds the steps {steps[-5:]}")
    step = steps[-1] if step is None else step
    with ocp.PyTreeCheckpointer() as reader:
        path = folder / str(step) / "state"
        tree = reader.metadata(path).item_metadata.tree
        field = "ema" if average else "params"
        if not tree.get(field):
            raise InputError(f"{folder.parent} keeps no moving average; a run with train.ema above 0 is needed")
        wanted = {field: jax.tree.map(lambda leaf: np.zeros((), leaf.dtype), tree[field])}
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        found = reader.restore(path, args=ocp.args.PyTreeRestore(wanted, restore_args=numpy, partial_restore=True))
    return found[field], step


def gather_json(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The value of every host, in order, on every host."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(text.size))).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
