"""The loop: batches in, steps, metrics out, checkpoints; stops cleanly and goes on exactly."""

import dataclasses
import signal
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from fmzoo.errors import InputError
from fmzoo.objectives.contract import Batch
from fmzoo.parallel import gather_json
from fmzoo.train.checkpoints import Checkpoints
from fmzoo.train.frozen import keep_frozen
from fmzoo.train.full_disk import full_disk_explained
from fmzoo.train.locations import locate
from fmzoo.train.metrics_log import MetricsLog, values_of
from fmzoo.train.progress import Progress
from fmzoo.train.step import Step


class Data(Protocol):
    """A stream of batches whose place can be taken down and gone back to."""

    def __next__(self) -> Batch:
        """The next batch: this process's rows."""

    def get_state(self) -> dict[str, Any]:
        """The place after the last batch, values that JSON holds."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to a place."""


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How long, and what is kept."""

    steps: int = 1000  # in total, those before a restart included
    checkpoint_every: int = 250
    keep_checkpoints: int | None = 3  # the newest; None keeps all
    keep_every: int | None = None  # multiples of this stay for good
    nonfinite_patience: int = 10  # skipped updates in a row that stop the run
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name in ("steps", "checkpoint_every", "keep_checkpoints", "keep_every", "nonfinite_patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; at least 1 is needed")


def fit(
    step: Step,
    state: Any,
    frozen: dict[str, Any],
    data: Data,
    config: FitConfig,
    workdir: epath.PathLike,
    *,
    tokens: int = 0,
    flops: float = 0.0,
    merge: Callable[[list[dict[str, Any]]], dict[str, Any]] = lambda states: states[0],
) -> tuple[Any, bool]:
    """Trains until ``config.steps``, or until SIGTERM, from the newest complete checkpoint if there is one.

    A resumed run repeats an uninterrupted one bit for bit on the same devices: state, position in the data and metrics
    are all cut back to the checkpoint.

    Args:
      step: compiled, ``(state, frozen, batch) -> (state, metrics)``; a state has ``step``, or is a dict of such.
      state: where to start; donated.
      frozen: given to every step, and written to ``frozen/`` once.
      data: this process's rows.
      config: how long, and what is kept.
      workdir: gets ``metrics.jsonl``, ``timing.jsonl``, ``checkpoints/STEP/`` and ``tensorboard/``.
      tokens: in a global batch, for the speed shown.
      flops: of a step, for the share of the machine shown.
      merge: joins the data positions of all hosts into one that any number of hosts can take.

    Returns:
      The state, and whether it is finished (False after SIGTERM).

    Raises:
      InputError: the disk is full, the checkpoint is of another model, or too many updates in a row were not finite.
    """
    workdir = locate(workdir)
    with (
        full_disk_explained(workdir),
        Checkpoints(workdir / "checkpoints", config.keep_checkpoints, config.keep_every) as checkpoints,
        MetricsLog(workdir / "metrics.jsonl") as log,
    ):
        state, done, bad = _resume(checkpoints, state, data)
        if frozen:
            keep_frozen(workdir / "frozen", frozen)
        saved = done
        log.cut(done)
        with Progress(workdir, done, config.steps, tokens, flops, config.quiet) as progress, _Terminated() as stop:
            while done < config.steps and not stop.asked():
                state, metrics = step(state, frozen, next(data))
                done, values = done + 1, _to_floats(metrics)
                log.append(done, values)
                progress.show(done, values)
                bad = bad + 1 if any(values_of(values, "skipped")) else 0
                if bad >= config.nonfinite_patience:
                    raise InputError(f"loss or gradient was not finite {bad} times in a row, up to step {done}; "
                                     "a lower learning rate or other data is needed")  # fmt: skip
                if done % config.checkpoint_every == 0:
                    saved = _save(checkpoints, log, done, state, merge(gather_json(data.get_state())), bad)
            if done > saved:
                _save(checkpoints, log, done, state, merge(gather_json(data.get_state())), bad)
    return state, done >= config.steps


def _resume(checkpoints: Checkpoints, state: Any, data: Data) -> tuple[Any, int, int]:
    """The newest state, its step, and how many updates before it were skipped in a row; the data goes there too."""
    checkpoints.check()
    if not checkpoints.steps:
        return state, 0, 0
    state, place, done = checkpoints.restore(state)
    data.set_state(place["data"])
    return state, done, place["skipped_in_a_row"]


def _save(checkpoints: Checkpoints, log: MetricsLog, done: int, state: Any, place: dict[str, Any], bad: int) -> int:
    log.flush()
    checkpoints.save(done, state, {"data": place, "skipped_in_a_row": bad})
    return done


def _to_floats(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: np.asarray(value).astype(np.float64).item() for name, value in jax.device_get(metrics).items()}


class _Terminated:
    """Notes SIGTERM, so that the loop can end between two steps; on several hosts all stop at the same one."""

    def __enter__(self) -> "_Terminated":
        self._noted = False
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread, which alone may handle signals
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self._noted = True

    def asked(self) -> bool:
        if jax.process_count() == 1:
            return self._noted
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.int32(self._noted))))
