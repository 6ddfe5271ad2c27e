"""The folder of a run: which run it holds, what marks it, and that a mistake leaves nothing behind."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from etils import epath

from fmzoo import __version__, text, train
from fmzoo.errors import InputError, nearest
from fmzoo.interop.config_json import from_json, to_json

Config = TypeVar("Config")
RUN_FILE = "config.json"
BEFORE_RUN_FILE = {"tokenizer", ".config.json.tmp"}  # all that a kill can leave of a run without its config
FREE_TO_CHANGE = ("steps", "checkpoint_every", "keep_checkpoints", "keep_every", "workers", "quiet", "mesh")


def is_finished(config: Any, workdir: epath.PathLike) -> bool:
    """Whether the folder holds a run that has taken all its steps and written its report."""
    workdir = train.locate(workdir)
    taken = max(train.complete_steps(workdir / "checkpoints"), default=0)
    return taken >= config.steps and (workdir / "report.md").exists()


def check_workdir(config: Any, workdir: epath.Path) -> bool:
    """Whether the folder holds this very run; False if it is new or empty.

    Raises:
      InputError: it holds another run, or something else.
    """
    if not workdir.exists() or (workdir.is_dir() and {path.name for path in workdir.iterdir()} <= BEFORE_RUN_FILE):
        return False
    if not (workdir / RUN_FILE).exists():
        raise InputError(f"workdir {workdir} holds other files and no run; an empty or new folder is needed")
    before = read_config(workdir, type(config))
    for path, old, new in differences(to_json(before), to_json(config)):
        if path.split(".")[0] not in FREE_TO_CHANGE:
            raise InputError(f"workdir {workdir} holds another run: {path} is {old!r} there and {new!r} here; "
                             "the same, or another folder, is needed")  # fmt: skip
    return True


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: ``(path, old, new)``."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [d for n in names for d in differences(old.get(n), new.get(n), f"{path}.{n}" if path else n)]
    return [] if old == new else [(path, old, new)]


def open_workdir(config: Any, workdir: epath.Path, tokenizer: text.Tokenizer | None) -> None:
    """Writes the config, which marks a run, after all else that it needs."""
    workdir.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None and not (workdir / RUN_FILE).exists():
        tokenizer.save(workdir / "tokenizer")
    marked = {"fmzoo": __version__, "stage": config.stage, **to_json(config)}
    train.replace_text(workdir / RUN_FILE, json.dumps(marked, indent=2) + "\n")


@contextlib.contextmanager
def nothing_left(workdir: epath.Path, unless: bool) -> Iterator[None]:
    """Takes away what this call made, if it ends in a mistake before a checkpoint is complete.

    Args:
      workdir: of the run.
      unless: the run was there before; then all of it stays.

    Raises:
      InputError: in place of an error of the file system.
    """
    top = workdir  # the highest folder that is not there yet
    while not top.exists() and not top.parent.exists():
        top = top.parent
    made = [top] if not workdir.exists() else None
    try:
        yield
    except (InputError, OSError) as error:
        if not unless and jax.process_index() == 0 and not train.complete_steps(workdir / "checkpoints"):
            for path in made or workdir.iterdir():
                path.rmtree(missing_ok=True) if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(error, InputError):
            raise
        reason = error.strerror or type(error).__name__
        raise InputError(f"workdir {workdir} cannot be written ({reason}); a folder with room is needed") from error


def read_config(workdir: epath.PathLike, kind: type[Config]) -> Config:
    """The config of a run folder.

    Args:
      workdir: of the run.
      kind: the config of the stage that it is expected to be of.

    Raises:
      InputError: the file is damaged or of another stage.
    """
    path = train.locate(workdir) / RUN_FILE
    try:
        values = json.loads(path.read_text())
        stage, _ = values.pop("stage"), values.pop("fmzoo")
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no run's config; the file that a run writes is needed") from error
    if stage != kind.stage:
        raise InputError(f"{path} is of stage {stage!r}; {nearest(stage, [kind.stage])}")
    return from_json(kind, values)
