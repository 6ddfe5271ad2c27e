"""T5's encoder (arXiv 1910.10683; version 1.1: 2002.05202), as diffusion systems condition on it."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmzoo.errors import require
from fmzoo.models.attention import Mask
from fmzoo.models.checks import check, check_options, check_positive
from fmzoo.models.config import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.models.decoder import Block, init_layers
from fmzoo.models.norms import Norm
from fmzoo.models.projection import read
from fmzoo.models.sharding import stacked_rules
from fmzoo.models.stacked import run_stack
from fmzoo.models.view import View

Array = jax.Array
T5_RULES = stacked_rules(("relative_bias", (None, "heads")))


@dataclasses.dataclass(frozen=True)
class T5Config:
    """An encoder's sizes; version 1.1 is gated, the first one has a plain ReLU."""

    vocab_size: int = 32_128
    d_model: int = 4096
    num_layers: int = 24
    num_heads: int = 64
    head_dim: int = 64
    d_ff: int = 10_240
    activation: Literal["gelu_tanh", "gelu", "relu", "silu"] = "gelu_tanh"
    gated: bool = True
    num_buckets: int = 32  # of relative positions, half of them for keys after the query
    max_distance: int = 128  # from which on all distances share a bucket
    epsilon: float = 1e-6
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"

    def __post_init__(self) -> None:
        """Refuses sizes that cannot be."""
        check_positive(self, "vocab_size", "d_model", "num_layers", "num_heads", "head_dim", "d_ff", "epsilon")
        check_options(self, activation=("gelu_tanh", "gelu", "relu", "silu"))
        check_options(self, dtype=("float32", "bfloat16", "float16", "float64"))
        check(
            self.num_buckets >= 4 and self.num_buckets % 4 == 0 and self.max_distance > self.num_buckets // 4,
            f"num_buckets {self.num_buckets} and max_distance {self.max_distance} make no buckets; a multiple of 4 "
            "and a distance over a quarter of it are needed",
        )

    @property
    def decoder(self) -> DecoderConfig:
        """The same transformer as a decoder's config: its blocks are the decoder's, the scores not scaled."""
        heads = AttentionConfig(self.num_heads, self.num_heads, self.head_dim, scale=1.0)
        return DecoderConfig(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            num_layers=self.num_layers,
            attention=heads,
            mlp=MlpConfig(d_ff=self.d_ff, activation=self.activation, gated=self.gated),
            norm=NormConfig(epsilon=self.epsilon),
            position="none",
            dtype=self.dtype,
        )


T5_XXL = T5Config()  # version 1.1, as Stable Diffusion 3 uses it


class T5Encoder(nn.Module):
    """The encoder; parameters: ``embed``, one ``relative_bias`` for all, stacked ``layers``, ``final_norm``."""

    config: T5Config

    @nn.compact
    def __call__(self, tokens: Array, segment_ids: Array | None = None) -> Array:
        """Encodes token ids.

        Args:
          tokens: ``int32[B, T]``.
          segment_ids: ``int32[B, T]``: tokens see only their own segment, and 0 is a pad that nothing sees. None lets
            all see all, pads too, as Stable Diffusion 3 does.

        Returns:
          ``[B, T, D]`` after the final norm.
        """
        c, decoder, sizes = self.config, self.config.decoder, require("tokens", tokens, "B T")
        if segment_ids is not None:
            require("segment_ids", segment_ids, "B T", sizes)
        x = read(self, "embed", nn.initializers.normal(1.0), (c.vocab_size, c.d_model))[tokens]
        table = read(self, "relative_bias", nn.initializers.normal(0.02), (c.num_buckets, c.num_heads))
        if not self.has_variable("params", "layers"):
            self.param("layers", lambda key: init_layers(key, decoder, ("global",), decoder.num_layers)["0"])
        view = _see(c, table, sizes["T"], segment_ids)
        block = Block(decoder, "global", parent=None)

        def run(layer: dict, x: Array) -> Array:
            return block.apply({"params": layer}, x, view, None, None)[0]

        x = x.astype(decoder.compute_dtype)
        x = run_stack(run, self.get_variable("params", "layers"), x, layers="scan", remat="none")
        return Norm(decoder.norm, name="final_norm")(x)


def _see(config: T5Config, table: Array, length: int, segment_ids: Array | None) -> View:
    """What all layers share: who sees whom, and the bias of each distance."""
    bias = table[relative_buckets(length, config.num_buckets, config.max_distance)]  # [T, S, N]
    wide = jnp.promote_types(jnp.float32, config.decoder.compute_dtype)
    seen = jnp.ones((1, length, length), bool)
    if segment_ids is not None:
        seen = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    return View(Mask(positions, positions), seen, jnp.transpose(bias, (2, 0, 1))[None].astype(wide), None, None, True)


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each query and key, ``int32[T, S]`` (arXiv 1910.10683, section 2.1, and its code).

    Half of the buckets are for keys after the query. Of each half, the first half holds one distance each, and the rest
    distances up to ``max_distance`` on a logarithmic scale.
    """
    ahead = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, exact = num_buckets // 2, num_buckets // 4
    distance = np.abs(ahead)
    scale = np.float32(math.log(max_distance / exact))
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / scale * np.float32(half - exact)
    far = np.minimum(exact + ratio.astype(np.int64), half - 1)
    return (np.where(distance < exact, distance, far) + np.where(ahead > 0, half, 0)).astype(np.int32)
