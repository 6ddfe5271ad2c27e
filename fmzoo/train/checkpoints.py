"""Checkpoints by Orbax: written beside the training, complete or absent, restored onto any mesh."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from fmzoo.errors import InputError
from fmzoo.parallel import Rules, from_first, path_of, specs
from fmzoo.train.full_disk import full_disk_explained
from fmzoo.train.locations import locate

COMMITTED = "_CHECKPOINT_METADATA"  # the file in which Orbax notes when a checkpoint was complete


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # heavy to import, so not before it is used

    logging.getLogger("absl").addFilter(_is_told_once)
    return ocp


def _is_told_once(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Orbax prints from its threads before it raises the same errors here."""
    return record.levelno != logging.ERROR or "orbax" not in record.pathname


def complete_steps(folder: epath.PathLike) -> list[int]:
    """The steps of the complete checkpoints in a folder, ascending; what a killed save left does not count."""
    folder = locate(folder)
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdigit()]
    return sorted(int(name) for name in names if _is_complete(folder / name))


def _is_complete(path: epath.Path) -> bool:
    try:
        return bool(json.loads((path / COMMITTED).read_text())["commit_timestamp_nsecs"]) and (path / "state").is_dir()
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of a run: ``folder/STEP/``, each with the state and the position in the data.

    As a context it waits at the end for all that was started.
    """

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
            from_first(self._take_away_rests)
            options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, keep_period=self._keep_every, create=True)
            manager = ocp.CheckpointManager(self.folder, options=options)
            if halves := set(manager.all_steps()) - set(self.steps):
                manager.close()
                half = self.folder / str(min(halves))
                raise InputError(f"checkpoint {half} is not complete; a whole copy in its place, or none, is needed")
            self._manager = manager
        return self._manager

    def _take_away_rests(self) -> None:
        """Ends what a kill left half done: an old checkpoint that was being taken away, with a whole one after it."""
        if self._keep is None or not (complete := self.steps):
            return
        for path in list(self.folder.iterdir()):
            if path.name.isdigit() and int(path.name) < complete[-1] and int(path.name) not in complete:
                path.rmtree()

    @property
    def steps(self) -> list[int]:
        """The steps that are complete."""
        return complete_steps(self.folder)

    def check(self) -> None:
        """Looks for what would stop a save later.

        Raises:
          InputError: the folder holds a checkpoint that is not complete, and is none that a kill left: neither a save
            nor an old one that was being taken away.
        """
        if self.folder.is_dir() and any(self.folder.iterdir()):
            self._open()

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts writing; the state may be donated as soon as this returns.

        Args:
          step: names the checkpoint.
          state: a tree of arrays.
          data: the position in the data, values that JSON holds; the same on every host.

        Raises:
          InputError: there is no room for it, or for the one before. Earlier checkpoints stay whole.
        """
        with full_disk_explained(self.folder):
            args = _orbax().args
            items = args.Composite(state=args.StandardSave(state), data=args.JsonSave(data))
            self._open().save(step, args=items, force=True)

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any], int]:
        """``(state, data position, step)`` of a checkpoint, the newest complete one by default.

        Args:
          like: a state of the same shapes, placed as the result shall be; it may be on another mesh than the saved one.
          step: which one.

        Raises:
          InputError: there is none, or it is damaged or of other shapes.
        """
        step = _choose(self.folder, step)
        ocp = _orbax()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        with _misfit_explained(self.folder / str(step)):
            _check_shapes(self.folder / str(step), like)
            found = self._open().restore(step, args=args)
        return found.state, found.data, step

    def wait(self) -> None:
        """Returns when all that was started is on disk.

        Raises:
          InputError: there was no room.
        """
        if self._manager is not None:
            with full_disk_explained(self.folder):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go."""
        if self._manager is not None:
            try:
                self.wait()
            finally:
                self._manager.close()
                self._manager = None

    def __exit__(self, *_: object) -> None:
        self.close()


def load_params(
    folder: epath.PathLike,
    step: int | None = None,
    average: bool = False,
    name: str | None = None,
    split: tuple[Mesh, Rules] | None = None,
) -> tuple[Any, int]:
    """``(parameters, step)`` of a run: the newest complete checkpoint's by default.

    Args:
      folder: of the checkpoints.
      step: which one.
      average: the moving average in place of the parameters.
      name: of the state, in a run of several.
      split: a mesh and the rules for it, to have JAX arrays there, of which each process reads its part; else they are
        NumPy arrays.

    Raises:
      InputError: there is no complete checkpoint, no such step, no such state, or no moving average.
    """
    folder = locate(folder)
    step = _choose(folder, step)
    ocp, field = _orbax(), "ema" if average else "params"
    path, reader = folder / str(step) / "state", ocp.PyTreeCheckpointHandler()
    with _misfit_explained(folder / str(step)), contextlib.closing(reader):
        tree = reader.metadata(path).tree
        if name is not None:
            tree = tree[name]
        if not tree.get(field):
            raise InputError(f"{folder.parent} keeps no moving average; a run with ema above 0 is needed")
        wanted = {field: jax.tree.map(lambda leaf: np.zeros((), leaf.dtype), tree[field])}
        kinds = {field: _restore_args(ocp, tree[field], split)}
        wanted, kinds = (wanted, kinds) if name is None else ({name: wanted}, {name: kinds})
        found = reader.restore(path, args=ocp.args.PyTreeRestore(wanted, restore_args=kinds, partial_restore=True))
    return (found if name is None else found[name])[field], step


def _restore_args(ocp: Any, tree: Any, split: tuple[Mesh, Rules] | None) -> Any:
    """How Orbax shall restore each leaf of a tree of which it gave the metadata."""
    if split is None:
        return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    mesh, rules = split
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    return jax.tree.map(
        lambda spec: ocp.ArrayRestoreArgs(sharding=NamedSharding(mesh, spec)), specs(rules, shapes, mesh)
    )


def _check_shapes(path: epath.Path, like: Any) -> None:
    """Compares what is on disk with what is wanted, before any of it is read."""
    with contextlib.closing(_orbax().PyTreeCheckpointHandler()) as reader:
        saved = _shapes(reader.metadata(path / "state").tree)
    wanted = _shapes(jax.eval_shape(_without_keys, like))
    for name in sorted({*saved, *wanted}, key=lambda name: (not name.startswith("params/"), name)):
        if saved.get(name) != wanted.get(name):
            raise InputError(
                f"checkpoint {path} does not fit: its {name} is {saved.get(name, 'absent')} and this run's is "
                f"{wanted.get(name, 'absent')}; one of the same model and optimizer is needed"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path_of(keys): tuple(leaf.shape) for keys, leaf in jax.tree.leaves_with_path(tree)}


def _without_keys(tree: Any) -> Any:
    """Typed keys as the integers that they are stored as."""
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def _choose(folder: epath.Path, step: int | None) -> int:
    steps = complete_steps(folder)
    if not steps or (step is not None and step not in steps):
        wanted = "complete checkpoint" if step is None else f"step {step}"
        raise InputError(f"{folder} has no {wanted}; it holds the steps {steps[-5:]}")
    return steps[-1] if step is None else step


@contextlib.contextmanager
def _misfit_explained(path: epath.Path) -> Iterator[None]:
    """Turns what Orbax says of a checkpoint that it cannot read into one sentence.

    Orbax stops at the first array that it cannot read and closes its event loop; what reads the others then finds the
    loop closed, from threads of its own and at any time after. That is not told as well.
    """
    told = sys.unraisablehook
    sys.unraisablehook = lambda left: None if "Event loop is closed" in str(left.exc_value) else told(left)
    try:
        yield
    except InputError:
        sys.unraisablehook = told
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"checkpoint {path} does not fit: {reason}; one of the same model and optimizer is needed"
        ) from error
    else:
        sys.unraisablehook = told
