"""Fills: what is added to a batch before a step sees it, on the device or by plain Python on the host."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax

from fmzoo.objectives.contract import Batch
from fmzoo.train.step import Metrics, Step

Fields = Callable[[Any, dict[str, Any], Batch], Batch]


@dataclasses.dataclass(frozen=True)
class Fill:
    """Adds fields to a batch: a rollout, reference log-probs, rewards, advantages. ``a >> b`` is a, then b.

    Attributes:
      fields: ``(state, frozen, batch) -> new fields``; draws are keyed by ``state.rng``, ``state.step`` and
        ``example_id``, as everywhere.
      on_host: it is plain Python on NumPy arrays, such as a verifier, and is never traced.
    """

    fields: Fields
    on_host: bool = False

    def __call__(self, state: Any, frozen: dict[str, Any], batch: Batch) -> Batch:
        """The batch with the new fields."""
        given = jax.device_get(batch) if self.on_host else batch
        return {**batch, **self.fields(state, frozen, given)}

    def __rshift__(self, other: "Fill | Fills") -> "Fills":
        return Fills((self,)) >> other


@dataclasses.dataclass(frozen=True)
class Fills:
    """Fills one after another."""

    parts: tuple[Fill, ...]

    def __call__(self, state: Any, frozen: dict[str, Any], batch: Batch) -> Batch:
        """The batch with all new fields."""
        for part in self.parts:
            batch = part(state, frozen, batch)
        return batch

    def __rshift__(self, other: "Fill | Fills") -> "Fills":
        return Fills(self.parts + (other.parts if isinstance(other, Fills) else (other,)))

    def jit(self) -> "Fills":
        """The same with each run of neighbouring device fills compiled as one program; host fills stay as they are."""
        parts: list[Fill] = []
        for on_host, neighbours in itertools.groupby(self.parts, key=lambda part: part.on_host):
            group = tuple(neighbours)
            parts += group if on_host else (Fill(jax.jit(Fills(group).__call__)),)
        return Fills(tuple(parts))


def fill_then(fills: Fill | Fills, step: Step) -> Step:
    """A step that fills the batch first.

    It is itself a host function if any fill is: give it a compiled step and `Fills.jit`, and do not compile it.
    """

    def filled(state: Any, frozen: dict[str, Any], batch: Batch) -> tuple[Any, Metrics]:
        return step(state, frozen, fills(state, frozen, batch))

    return filled
