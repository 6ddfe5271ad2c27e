"""The residual block of diffusion U-Nets and of their autoencoders."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.activations import ACTIVATIONS
from fmzoo.models.convolution import Convolution
from fmzoo.models.dropout import dropout
from fmzoo.models.norms import GroupNorm
from fmzoo.models.projection import Weights

Array = jax.Array
BRANCH_SCALE = 0.1  # of a residual branch's initial variance, so that an untrained network stays near its input


class ResnetBlock(nn.Module):
    """Twice GroupNorm, activation and a 3x3 convolution, added to the input (DDPM, arXiv 2006.11239, appendix B).

    The embedding of the time is added to each channel between the two, or with ``scale_shift`` scales and shifts the
    second norm's result (arXiv 2102.09672, section 3). Parameters are ``norm1``, ``conv1``, ``time``, ``norm2``,
    ``conv2``, and ``shortcut`` where the number of channels changes.
    """

    features: int
    groups: int = 32
    epsilon: float = 1e-5
    activation: str = "silu"
    scale_shift: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, embedding: Array | None = None, keys: Array | None = None) -> Array:
        """One block.

        Args:
          x: ``[B, H, W, C]``.
          embedding: ``[B, E]``, or None for a block without one.
          keys: a key for each row to drop activations, ``[B]``, or None.

        Returns:
          ``[B, H, W, F]``.
        """
        activate, shift = ACTIVATIONS[self.activation], 0.0
        y = activate(GroupNorm(self.groups, self.epsilon, name="norm1")(x))
        y = Convolution(self.features, name="conv1")(y)
        if embedding is not None:
            width = self.features * (2 if self.scale_shift else 1)
            shift = Weights(width, True, name="time")(embedding.shape[-1])(activate(embedding))[:, None, None]
        norm = GroupNorm(self.groups, self.epsilon, name="norm2")
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            y = norm(y) * (1 + scale) + shift
        else:
            y = norm(y + shift)
        y = dropout(activate(y), keys, self.dropout)
        y = Convolution(self.features, init_scale=BRANCH_SCALE, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = Weights(self.features, True, name="shortcut")(x.shape[-1])(x)
        return x + y
