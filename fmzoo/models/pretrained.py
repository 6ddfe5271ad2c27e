"""What `fmzoo.load` gives: a model that is ready to run."""

import dataclasses
from typing import Any

from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A module with its parameters, config and tokenizer.

    Attributes:
      module: a Linen module; ``module.apply({"params": params}, ...)``.
      params: a plain tree of arrays (or nodes).
      config: the module's frozen config.
      tokenizer: an object of `fmzoo.text.Tokenizer`, or None if the source has none.
    """

    module: nn.Module
    params: Any
    config: Any
    tokenizer: Any = None
