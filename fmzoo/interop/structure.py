"""Where the arrays of a model of ours are stored: each leaf's shape, and each layer's place in the stacked tree."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fmzoo.models import Decoder, DecoderConfig

Shape = tuple[int, ...]


class Place(NamedTuple):
    """Where an array is stored: the leaf's path, and its index on the leaf's leading axis if that stacks layers."""

    path: str
    copy: int | None = None


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a tree of ours looks like.

    Attributes:
      shapes: the shape of every leaf, by its path.
      stacks: for each name of a stack of layers, the place of each layer in order.
      names: for a stack whose layers are not just numbered in the names of others, what ``{i}`` stands for there.
    """

    shapes: Mapping[str, Shape]
    stacks: Mapping[str, Sequence[Place]]
    names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def locate(self, path: str, layer: int | None) -> Place:
        """The place of a row's path in a layer."""
        if layer is None:
            return Place(path)
        stack, _, rest = path.partition("/{i}/")
        place = self.stacks[stack][layer]
        return Place(f"{place.path}/{rest}", place.copy)

    def name(self, stack: str, layer: int | None) -> str | int | None:
        """What ``{i}`` stands for in the names of others."""
        return self.names[stack][layer] if stack in self.names else layer

    def shape(self, place: Place) -> Shape | None:
        """The shape of what is stored there, None if there is no such leaf."""
        shape = self.shapes.get(place.path)
        return shape if shape is None or place.copy is None else shape[1:]

    def places(self) -> set[Place]:
        """Every place, stacked leaves layer by layer."""
        stacked = {place.path for places in self.stacks.values() for place in places if place.copy is not None}
        found = set()
        for path, shape in self.shapes.items():
            inside = any(path.startswith(f"{stack}/") for stack in stacked)
            found |= {Place(path, copy) for copy in (range(shape[0]) if inside else (None,))}
        return found


def decoder_structure(config: DecoderConfig) -> Structure:
    """The structure of a decoder's parameters, with its layers as the stack ``layers``; nothing is allocated."""
    init = functools.partial(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    shapes = {path: leaf.shape for path, leaf in flatten_dict(jax.eval_shape(init)["params"], sep="/").items()}
    period, repeated = len(config.pattern), len(config.pattern) * config.num_periods
    layers = [Place(f"prefix/{i}") for i in range(len(config.prefix))]
    layers += [Place(f"period/{i % period}", i // period) for i in range(repeated)]
    layers += [Place(f"tail/{i}") for i in range(len(config.tail))]
    return Structure(shapes, {"layers": layers})
