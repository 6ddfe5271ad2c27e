"""The decoder's configuration: one architecture, orthogonal options, each in the part that it changes."""

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp

from fmzoo.errors import InputError, nearest
from fmzoo.models.checks import check, check_options, check_positive
from fmzoo.models.experts_config import ExpertsConfig, LatentConfig
from fmzoo.models.rope_config import RopeConfig

Kind = Literal["global", "local", "nope"]


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Multi-head, grouped-query, multi-query or latent attention with a head width of its own."""

    num_heads: int = 8
    num_kv_heads: int = 8
    head_dim: int = 64
    scale: float | None = None  # of the scores; None is head_dim ** -0.5
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"  # over each head (Qwen 3, Gemma 3) or all heads together (OLMo 2)
    logit_softcap: float | None = None  # c tanh(s / c) on the scores, before the mask
    window: int | None = None  # keys that a local layer sees, itself included
    dropout: float = 0.0  # of the attention probabilities
    implementation: Literal["xla", "cudnn", "splash"] = "xla"
    latent: LatentConfig | None = None  # keys and values, and perhaps queries, come from a narrow latent (DeepSeek)

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "num_heads", "num_kv_heads", "head_dim", "scale", "logit_softcap", "window")
        check(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}; a divisor is needed",
        )
        check(0 <= self.dropout < 1, f"attention dropout is {self.dropout}; at least 0 and below 1 is needed")
        check_options(self, qk_norm=("none", "head", "all"), implementation=("xla", "cudnn", "splash"))
        check(
            self.implementation == "xla" or not self.dropout,
            f"attention dropout {self.dropout} needs the implementation xla, not {self.implementation}",
        )
        check(
            self.implementation != "cudnn" or self.logit_softcap is None,
            f"logit_softcap {self.logit_softcap} needs the implementation xla or splash, not cudnn",
        )
        if self.latent is not None:
            self._check_latent(self.latent)

    def _check_latent(self, latent: LatentConfig) -> None:
        check(
            self.num_heads == self.num_kv_heads and self.qk_norm == "none" and self.implementation == "xla",
            "latent attention needs num_kv_heads equal to num_heads, qk_norm none and the implementation xla",
        )
        check(
            latent.rope_dim < self.head_dim,
            f"rope_dim {latent.rope_dim} is not below head_dim {self.head_dim}, of which it is the part that turns",
        )

    @property
    def rotary_dim(self) -> int:
        """The width that rotary positions are for: a head's, or with latent attention the part of it that turns."""
        return self.head_dim if self.latent is None else self.latent.rope_dim


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """The feed-forward half of a block: gated (``act(x G) * (x U)) D``) or plain (``act(x U) D``)."""

    d_ff: int = 2048
    activation: Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu"] = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "d_ff")
        check_options(self, activation=("silu", "gelu", "gelu_tanh", "quick_gelu", "relu"))


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """RMSNorm (arXiv 1910.07467) or LayerNorm (1607.06450), and where in a block it stands."""

    kind: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-5
    bias: bool = False
    unit_offset: bool = False  # multiplies by 1 + w, so that w starts at 0 (Gemma)
    # x + f(norm(x)), x + norm(f(x)), x + norm(f(norm(x))), norm(x + f(x)) (the first Transformer, OPT 350M)
    placement: Literal["pre", "post", "both", "residual"] = "pre"

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "epsilon")
        check_options(self, kind=("rms", "layer"), placement=("pre", "post", "both", "residual"))


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder-only transformer.

    Layers are ``prefix``, then as many whole ``pattern`` periods as fit ``num_layers``, then the part of a period that
    is left (the tail). A ``local`` layer attends within ``attention.window`` and turns by ``local_rope`` if it is set;
    a ``nope`` layer sees all and does not turn (arXiv 2305.19466; SmolLM3).
    """

    vocab_size: int = 32_000
    d_model: int = 512
    num_layers: int = 8
    context_length: int = 2048
    attention: AttentionConfig = AttentionConfig()
    mlp: MlpConfig = MlpConfig()
    experts: ExpertsConfig | None = None  # in the place of the feed-forward half
    norm: NormConfig = NormConfig()
    prefix: tuple[Kind, ...] = ()
    pattern: tuple[Kind, ...] = ("global",)
    position: Literal["rope", "learned", "sinusoidal", "alibi", "none"] = "rope"
    position_offset: int = 0  # the row of a learned or sinusoidal table that position 0 reads (OPT, XGLM: 2)
    rope: RopeConfig = RopeConfig()
    local_rope: RopeConfig | None = None
    block: Literal["sequential", "parallel", "parallel_shared_norm"] = "sequential"
    tied_head: bool = False
    head_bias: bool = False  # on the logits (Phi, GPT-J)
    final_norm: bool = True
    embed_dim: int | None = None  # of embeddings and head, projected to d_model and back (OPT 350M); None is d_model
    embed_norm: bool = False  # of the embeddings (BLOOM)
    scaled_embedding: bool = False  # multiplies embeddings by sqrt(d_model), rounded to the compute dtype (Gemma)
    logit_softcap: float | None = None  # of the vocabulary logits
    dropout: float = 0.0  # of the embeddings and of each branch before it is added
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"  # of the computation
    layers: Literal["scan", "unrolled"] = "scan"
    remat: Literal["none", "full", "dots"] = "none"
    transposed_inputs: bool = False  # for the kernels' gradients: quicker training on CPU, but no forward mode (jvp)

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_positive(self, "vocab_size", "d_model", "num_layers", "context_length", "embed_dim", "logit_softcap")
        check(0 <= self.dropout < 1, f"dropout is {self.dropout}; at least 0 and below 1 is needed")
        check(0 <= self.position_offset < 2**16, f"position_offset is {self.position_offset}; 0 to 65535 is needed")
        check_options(
            self,
            position=("rope", "learned", "sinusoidal", "alibi", "none"),
            block=("sequential", "parallel", "parallel_shared_norm"),
            dtype=("float32", "bfloat16", "float16", "float64"),
            layers=("scan", "unrolled"),
            remat=("none", "full", "dots"),
        )
        self._check_layers()
        self._check_blocks()
        self._check_positions()

    def _check_layers(self) -> None:
        kinds = {*self.prefix, *self.pattern}
        check(bool(self.pattern), "pattern is empty; at least one of global, local, nope is needed")
        check(kinds <= {*get_args(Kind)}, f"pattern holds {sorted(kinds)}; only global, local and nope are known")
        check(
            len(self.prefix) <= self.num_layers,
            f"prefix has {len(self.prefix)} layers; at most num_layers={self.num_layers} is needed",
        )
        check(
            "local" not in kinds or self.attention.window is not None,
            "pattern has a local layer and attention.window is None; a window above 0 is needed",
        )
        check(
            self.dense_layers <= len(self.prefix),
            f"experts dense_layers is {self.dense_layers} and prefix has {len(self.prefix)} layers; they must be in it",
        )

    def _check_blocks(self) -> None:
        check(self.experts is None or not self.mlp.bias, "mlp bias is True, and experts have none; False is needed")
        check(
            self.norm.placement != "residual" or self.block == "sequential",
            f"norm placement residual needs the block sequential, not {self.block}",
        )

    def _check_positions(self) -> None:
        check(
            self.position != "sinusoidal" or self.d_model >= 4,
            f"d_model is {self.d_model}; at least 4 is needed for sinusoidal positions",
        )
        check(
            self.position != "alibi" or self.attention.implementation == "xla",
            f"position alibi needs the attention implementation xla, not {self.attention.implementation}",
        )
        for name, rope in (("rope", self.rope), ("local_rope", self.local_rope or self.rope)):
            rotated = int(self.attention.rotary_dim * rope.fraction)
            check(
                self.position != "rope" or rotated % 2 == 0,
                f"head_dim {self.attention.rotary_dim} rotates {rotated} by {name}; an even number is needed",
            )
            for factors in (rope.short_factors, rope.long_factors):
                check(
                    len(factors) in (0, rotated // 2),
                    f"{name} has {len(factors)} factors; {rotated // 2} are needed, one for each frequency",
                )

    @property
    def dense_layers(self) -> int:
        """How many first layers have a plain feed-forward where others have experts."""
        return 0 if self.experts is None else self.experts.dense_layers

    @property
    def num_periods(self) -> int:
        """How many whole periods of the pattern there are: the length of the stacked axis."""
        return (self.num_layers - len(self.prefix)) // len(self.pattern)

    @property
    def tail(self) -> tuple[Kind, ...]:
        """The layers after the last whole period."""
        return self.pattern[: (self.num_layers - len(self.prefix)) % len(self.pattern)]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of every layer, in order."""
        return self.prefix + self.pattern * self.num_periods + self.tail

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype(self.dtype)


def replace(config: DecoderConfig, **changes: object) -> DecoderConfig:
    """A config with fields changed by name; ``attention__window=4`` reaches into a part.

    Raises:
      InputError: a field is unknown.
    """
    own, parts = {}, {}
    for name, value in changes.items():
        head, _, rest = name.partition("__")
        if head not in (names := [f.name for f in dataclasses.fields(config)]):
            raise InputError(f"{type(config).__name__} has no field {head!r}; {nearest(head, names)}")
        (parts.setdefault(head, {}) if rest else own)[rest or head] = value
    for name, inner in parts.items():
        own[name] = replace(own.get(name, getattr(config, name)), **inner)
    return dataclasses.replace(config, **own)
