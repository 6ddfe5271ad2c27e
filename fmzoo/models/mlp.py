"""The feed-forward half of a block."""

import jax
from flax import linen as nn

from fmzoo.models.activations import ACTIVATIONS
from fmzoo.models.config import DecoderConfig
from fmzoo.models.projection import Weights, project_by_name

Array = jax.Array


class Mlp(nn.Module):
    """The feed-forward half (GLU variants: arXiv 2002.05202)."""

    config: DecoderConfig
    d_ff: int | None = None  # in place of the config's

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, T, D]`` to ``[B, T, D]``."""
        c, m, d_ff = self.config, self.config.mlp, self.d_ff or self.config.mlp.d_ff
        features = dict.fromkeys(("gate", "up") if m.gated else ("up",), d_ff)
        first, *rest = project_by_name(self, x, features, use_bias=m.bias, transposing=c.transposed_inputs)
        hidden = ACTIVATIONS[m.activation](first)
        hidden = hidden * rest[0] if m.gated else hidden
        return Weights(c.d_model, m.bias, 0.5 / c.num_layers, c.transposed_inputs, name="down")(d_ff)(hidden)
