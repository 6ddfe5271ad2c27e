"""A decoder with a scalar head: a score for a whole text, or a value for each of its tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.config import DecoderConfig
from fmzoo.models.decoder import Decoder
from fmzoo.models.projection import Weights
from fmzoo.models.sharding import DECODER_RULES
from fmzoo.parallel import Rules

Array = jax.Array
Tree = dict[str, Any]


class RewardModel(nn.Module):
    """A decoder whose last hidden states a linear head turns into numbers (arXiv 2009.01325, section 3.4).

    Parameters are ``decoder``, those of a `Decoder`, and ``head``, a kernel ``[D, 1]`` and a bias. A head over the
    vocabulary is there only if asked for, as a policy needs that shares its trunk with its value function.

    Attributes:
      config: of the decoder.
      language_head: keep the head over the vocabulary.
    """

    config: DecoderConfig
    language_head: bool = False

    def setup(self) -> None:
        """Declares both parts."""
        self.decoder = Decoder(self.config if self.language_head else without_head(self.config))
        self.head = Weights(1, use_bias=True)

    def __call__(self, tokens: Array, positions: Array | None = None, segment_ids: Array | None = None) -> Array:
        """A number for each token ``[B, T]``, float32 or better: what it says of the text up to and with that token.

        Args:
          tokens: ``int32[B, T]``.
          positions: as in `Decoder`.
          segment_ids: as in `Decoder`.
        """
        return self.value(self.features(tokens, positions, segment_ids)[0])

    def features(self, *args: Any, **kwargs: Any) -> tuple[Array, Tree, Tree | None]:
        """What `Decoder.features` gives."""
        return self.decoder.features(*args, **kwargs)

    def unembed(self, hidden: Array) -> Array:
        """What `Decoder.unembed` gives."""
        return self.decoder.unembed(hidden)

    def value(self, hidden: Array) -> Array:
        """``[B, T]`` of hidden states ``[B, T, D]``, in float32 or better."""
        wide = hidden.astype(jnp.promote_types(jnp.float32, hidden.dtype))
        return self.head(hidden.shape[-1])(wide)[..., 0]


def without_head(config: DecoderConfig) -> DecoderConfig:
    """The config of the same trunk without parameters of a vocabulary head of its own."""
    return dataclasses.replace(config, tied_head=True, head_bias=False)


def init_reward_model(key: Array, config: DecoderConfig, params: Tree, *, language_head: bool = False) -> Tree:
    """Parameters of a `RewardModel` over those of a decoder: the head normal of variance ``1 / (D + 1)``, the bias 0.

    The variance is that of openai/lm-human-preferences; no array of the decoder is copied.

    Args:
      key: a typed key.
      config: of the decoder.
      params: of the decoder; what belongs to its vocabulary head is left out unless that is kept.
      language_head: keep it.
    """
    owned = () if language_head else ("head", "head_bias")
    kernel = jax.random.normal(key, (config.d_model, 1)) * (config.d_model + 1) ** -0.5
    decoder = {name: value for name, value in params.items() if name not in owned}
    return {"decoder": decoder, "head": {"kernel": kernel, "bias": jnp.zeros(1)}}


REWARD_RULES = Rules(
    (
        *((f"decoder/{pattern}", axes) for pattern, axes in DECODER_RULES.table),
        ("head/kernel", ("embed", None)),
        ("head/bias", (None,)),
    ),
    DECODER_RULES.axes,
)
