"""CLIP's text tower (arXiv 2103.00020, section 2.4), as latent diffusion conditions on it: a causal transformer."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError, require
from fmzoo.models.checks import check, check_options, check_positive
from fmzoo.models.config import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.models.decoder import Block, init_layers
from fmzoo.models.norms import Norm
from fmzoo.models.projection import Weights, read
from fmzoo.models.sharding import stacked_rules
from fmzoo.models.stacked import run_stack
from fmzoo.models.view import look

Array = jax.Array
CLIP_TEXT_RULES = stacked_rules(("projection/kernel", ("embed", "norm")))


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """A text tower's sizes; layers that a system never runs are left out (Stable Diffusion 2 drops the last of 24)."""

    vocab_size: int = 49_408
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    context_length: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    epsilon: float = 1e-5
    projection: int | None = None  # the width of the projected pooled output; None is none, and the pooled one as it is
    eos_id: int | None = None  # pooled at the first; None pools at the largest id, the first of equals, as CLIP did
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"

    def __post_init__(self) -> None:
        """Refuses sizes that cannot be."""
        check_positive(self, "vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "context_length")
        check_positive(self, "projection", "epsilon")
        check_options(self, activation=("quick_gelu", "gelu"), dtype=("float32", "bfloat16", "float16", "float64"))
        check(
            self.d_model % self.num_heads == 0,
            f"d_model {self.d_model} is not divisible by num_heads {self.num_heads}; a divisor is needed",
        )

    @property
    def decoder(self) -> DecoderConfig:
        """The same transformer as a decoder's config: its blocks are the decoder's."""
        heads = {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_heads,
            "head_dim": self.d_model // self.num_heads,
        }
        return DecoderConfig(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            num_layers=self.num_layers,
            context_length=self.context_length,
            attention=AttentionConfig(**heads, qkv_bias=True, out_bias=True),
            mlp=MlpConfig(d_ff=self.d_ff, activation=self.activation, gated=False, bias=True),
            norm=NormConfig(kind="layer", epsilon=self.epsilon, bias=True),
            position="learned",
            dtype=self.dtype,
        )


CLIP_L14 = ClipTextConfig()  # OpenAI's ViT-L/14
OPENCLIP_H14 = ClipTextConfig(d_model=1024, num_layers=23, num_heads=16, d_ff=4096, activation="gelu")
OPENCLIP_BIGG14 = ClipTextConfig(
    d_model=1280, num_layers=32, num_heads=20, d_ff=5120, activation="gelu", projection=1280
)


class ClipText(nn.Module):
    """The text tower; parameters: ``embed``, ``position_embed``, stacked ``layers``, ``final_norm``, ``projection``."""

    config: ClipTextConfig

    @nn.compact
    def __call__(self, tokens: Array) -> dict[str, Array]:
        """Encodes token ids, pads and all: nothing but the order hides a token from another.

        Args:
          tokens: ``int32[B, T]``, T at most ``context_length``.

        Returns:
          ``last [B, T, D]`` after the final norm; ``penultimate [B, T, D]``, which goes into the last block, not
          normed; ``pooled [B, P]``, the last one at the end of the text, projected if the config has a projection.

        Raises:
          InputError: there are more tokens than positions.
        """
        c, decoder = self.config, self.config.decoder
        length = require("tokens", tokens, "B T")["T"]
        if length > c.context_length:
            raise InputError(f"tokens have length {length}; at most context_length {c.context_length} is needed")
        small = nn.initializers.normal(0.02)
        x = read(self, "embed", small, (c.vocab_size, c.d_model))[tokens].astype(decoder.compute_dtype)
        x = x + read(self, "position_embed", small, (c.context_length, c.d_model))[:length].astype(x.dtype)
        last, penultimate = self._run(x)
        last = Norm(decoder.norm, name="final_norm")(last)
        pooled = jnp.take_along_axis(last, end_of_text(tokens, c.eos_id)[:, None, None], axis=1)[:, 0]
        if c.projection is not None:
            pooled = Weights(c.projection, name="projection")(c.d_model)(pooled)
        return {"last": last, "penultimate": penultimate, "pooled": pooled}

    def _run(self, x: Array) -> tuple[Array, Array]:
        """What comes out of the last block, and what goes into it."""
        decoder = self.config.decoder
        if not self.has_variable("params", "layers"):
            self.param("layers", lambda key: init_layers(key, decoder, ("global",), decoder.num_layers)["0"])
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        view, _ = look(decoder, "global", positions, None, None, True)
        block = Block(decoder, "global", parent=None)

        def run(layer: dict, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return block.apply({"params": layer}, carry[0], view, None, None)[0], carry[0]

        return run_stack(run, self.get_variable("params", "layers"), (x, x), layers="scan", remat="none")


def end_of_text(tokens: Array, eos_id: int | None) -> Array:
    """Where the text ends, ``int32[B]``: at the first ``eos_id``, or for None at the first of the largest ids."""
    return jnp.argmax(tokens if eos_id is None else tokens == eos_id, axis=1).astype(jnp.int32)
