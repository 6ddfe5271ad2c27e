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
      chat_template: the Jinja source by which the source renders conversations, or None.
      stop_ids: ids that end an answer besides the tokenizer's eos.
      model_type: the family, in transformers' terms, that the source said it is of, or None; several compute the same.
    """

    module: nn.Module
    params: Any
    config: Any
    tokenizer: Any = None
    chat_template: str | None = None
    stop_ids: tuple[int, ...] = ()
    model_type: str | None = None
