"""What is seen while a run goes on: a bar with loss, speed and time left, TensorBoard events, and a log of timings."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from fmzoo.train.locations import is_local
from fmzoo.train.metrics_log import MetricsLog, values_of
from fmzoo.train.tensorboard import EventFile

SECONDS_A_LINE = 10  # between two lines where there is no terminal for a bar


def measure_matmul_rate(size: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations a second of a float32 matrix product on all of this process's first device.

    The best of a few repeats: the ceiling that a step is held against.
    """
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


class Progress:
    """A context that shows a run and records its speed; only the first process of several shows and writes."""

    def __init__(self, folder: epath.Path, first: int, steps: int, tokens: int, flops: float, quiet: bool = False):
        """Prepares.

        Args:
          folder: of the run: gets ``timing.jsonl`` and ``tensorboard/``.
          first: the step that the run starts or goes on from.
          steps: the total.
          tokens: a step, over all hosts; 0 where there are none, and steps are counted.
          flops: a step by the stated formula, over all hosts; 0 if unknown.
          quiet: show nothing.
        """
        self._folder, self._first, self._steps = folder, first, steps
        self._tokens, self._flops, self._quiet = tokens, flops, quiet or jax.process_index() > 0
        self._rate = measure_matmul_rate() * jax.device_count() if flops and not self._quiet else 0.0
        self._events: EventFile | None = None
        self._bar: Any = None
        self._last, self._said = time.perf_counter(), 0.0

    def __enter__(self) -> "Progress":
        from rich import progress as rich

        columns = (
            rich.TextColumn("[bold]{task.description}"),
            rich.BarColumn(bar_width=24),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[status]}"),
            rich.TimeRemainingColumn(),
        )
        if not self._quiet:
            self._bar = rich.Progress(*columns, disable=not _console().is_terminal)
            self._bar.start()
            self._task = self._bar.add_task("train", total=self._steps, completed=self._first, status="compiling")
        if jax.process_index() == 0 and is_local(self._folder):
            MetricsLog(self._folder / "timing.jsonl").cut(self._first)  # steps that are taken again stand once
            self._events = EventFile(self._folder / "tensorboard", purge_step=self._first + 1)
        self._last = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Takes a finished step."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        unit, speed = ("tokens", self._tokens / seconds) if self._tokens else ("steps", 1 / seconds)
        if self._events is not None:
            self._events.add(step, {**metrics, f"{unit}_per_second": speed})
        if self._bar is not None:
            losses = " ".join(f"{loss:.4f}" for loss in values_of(metrics, "loss"))
            status = f"loss {losses}  {speed:,.{0 if self._tokens else 1}f} {unit}/s"
            if self._rate:
                status += f"  {self._flops / seconds / self._rate:.0%} of matmul rate"
            self._bar.update(self._task, completed=step, status=status)
            if self._bar.disable and (now - self._said > SECONDS_A_LINE or step in (self._first + 1, self._steps)):
                self._said = now
                _console().print(f"step {step:,} of {self._steps:,}  {status}", highlight=False, soft_wrap=True)
        if jax.process_index() == 0 and is_local(self._folder):
            with open(self._folder / "timing.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "seconds": round(seconds, 6)}) + "\n")


def _console() -> Any:
    from rich.console import Console

    return Console()
