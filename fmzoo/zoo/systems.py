"""Named systems, open or closed: what their makers published, what is assumed here, and a source for each figure."""

import dataclasses

import jax
import jax.numpy as jnp

from fmzoo import models
from fmzoo.zoo.registry import Register

PartConfig = models.UNetConfig | models.MMDiTConfig | models.AutoencoderConfig | models.ClipTextConfig | models.T5Config


@dataclasses.dataclass(frozen=True)
class Fact:
    """One published figure."""

    what: str
    value: str
    source: str


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a published recipe.

    Attributes:
      name: of the stage.
      settings: by name, as published; what is not published is not there.
      source: where they stand.
    """

    name: str
    settings: dict[str, float | str] = dataclasses.field(hash=False)
    source: str


@dataclasses.dataclass(frozen=True)
class Part:
    """A component of a system with its config and its exact number of parameters."""

    name: str
    config: PartConfig
    parameters: int


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A model that draws, or what of it can be written as configs, by component."""

    name: str
    parts: tuple[Part, ...]
    source: str

    @property
    def parameters(self) -> int:
        """Of all components that are listed."""
        return sum(part.parameters for part in self.parts)


@dataclasses.dataclass(frozen=True)
class System:
    """What is known of a system.

    Attributes:
      name: lower case, as `fmzoo info` takes it.
      title: what its makers call it.
      made_by: its makers.
      count: what is published of its number of parameters, in a sentence.
      public: what was published.
      unpublished: what was not.
      assumed: what is this project's assumption.
      stand_in: what of this zoo comes nearest.
      facts: the published figures.
      entries: names of decoders in the zoo that belong to it.
      drawings: its models that draw, by component.
      recipe: the published stages of training.
    """

    name: str
    title: str
    made_by: str
    count: str
    public: str
    unpublished: str
    assumed: str
    stand_in: str
    facts: tuple[Fact, ...]
    entries: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    recipe: tuple[Stage, ...] = ()


_SYSTEMS: Register[System] = Register("system")
register_system, system, system_names = _SYSTEMS.add, _SYSTEMS.find, _SYSTEMS.names


def drawings() -> dict[str, Drawing]:
    """All models that draw, by name."""
    return {drawing.name: drawing for name in system_names() for drawing in system(name).drawings}


def count_part(config: PartConfig) -> int:
    """How many numbers a component has, found from the shapes; nothing is allocated."""
    if isinstance(config, models.UNetConfig):
        return models.unet_parameters(config)
    if isinstance(config, models.ClipTextConfig | models.T5Config):
        module = models.ClipText if isinstance(config, models.ClipTextConfig) else models.T5Encoder
        shapes = jax.eval_shape(module(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return models.image_model_parameters(config)
