"""OLMo 2 in the format of transformers: norms after each half, and over all queries and keys of a token."""

from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import (
    ACTIVATIONS,
    Family,
    llama_rows,
    llama_table,
    read_heads,
    read_sizes,
    write_activation,
    write_sizes,
)
from fmzoo.interop.rope import read_rope
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

NORMS = {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}
TABLE = llama_table(llama_rows(NORMS))
DEFAULTS = {
    "vocab_size": 50_304, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "attention_bias": False, "attention_dropout": 0.0, "rope_theta": 10_000.0,
}  # fmt: skip


def _read(a: Attributes) -> DecoderConfig:
    sizes, bias = read_sizes(a), a.take("attention_bias", bool)
    heads = read_heads(a, sizes["d_model"]) | {"dropout": a.number("attention_dropout")}
    return DecoderConfig(
        **sizes,
        attention=AttentionConfig(**heads, qkv_bias=bias, out_bias=bias, qk_norm="all"),
        mlp=MlpConfig(d_ff=a.integer("intermediate_size"), activation=a.one_of("hidden_act", ACTIVATIONS)),
        norm=NormConfig(epsilon=a.number("rms_norm_eps"), placement="post"),
        rope=read_rope(a, sizes["context_length"]),
    )


def _write(c: DecoderConfig) -> dict[str, Any]:
    return write_sizes(c) | {"hidden_act": write_activation(c)}


FAMILIES = (Family("olmo2", "Olmo2ForCausalLM", TABLE, DEFAULTS, _read, _write),)
