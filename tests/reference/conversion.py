"""A model of diffusers under random weights beside ours made of it: what the test of each architecture needs."""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType

import jax
import numpy as np

from fmzoo.interop import to_ours, to_theirs
from tests.reference.random_weights import config_of, randomise, same_weights, tensors_of


@dataclasses.dataclass(frozen=True, eq=False)
class Conversion:
    """A class of diffusers by name, our files' side of it, and the attributes of each case.

    Attributes:
      finish: puts right what random weights break, once they are drawn.
    """

    kind: str
    files: ModuleType
    cases: dict[str, dict]
    finish: Callable = lambda model: None

    @property
    def model(self):
        import diffusers

        return getattr(diffusers, self.kind)


@functools.cache
def theirs(conversion, name):
    """The model of diffusers of a case."""
    model = randomise(conversion.model(**conversion.cases[name]), name)
    conversion.finish(model)
    return model


@functools.cache
def ours(conversion, name):
    """``(config, params)`` of a case."""
    model, files = theirs(conversion, name), conversion.files
    config = files.read_config(config_of(model))
    return config, to_ours(files.table(config), files.structure(config), tensors_of(model))


@functools.cache
def compiled(module, method=None):
    """A module's ``apply``, compiled once for all parameters of one shape."""
    return jax.jit(functools.partial(module.apply, method=method))


def check_round_trip(conversion, name, run):
    """What we write is bit for bit what was read, and diffusers makes the same model of it: `run` gives its outputs."""
    import torch

    (config, params), files = ours(conversion, name), conversion.files
    tensors = to_theirs(files.table(config), files.structure(config), params)
    assert same_weights(tensors, tensors_of(theirs(conversion, name)))
    again = conversion.model.from_config(files.write_config(config)).eval()
    again.load_state_dict({path: torch.from_numpy(np.asarray(array).copy()) for path, array in tensors.items()})
    for one, other in zip(run(again), run(theirs(conversion, name)), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert files.read_config(config_of(again)) == config
