"""XGLM in the format of transformers: sinusoidal positions, embeddings times the square root of the width."""

from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import ACTIVATIONS, MOST_LAYERS, Family, read_equal_heads, write_activation
from fmzoo.interop.layouts import TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_norm
from fmzoo.interop.opt import EPSILON, OFFSET, sublayer_rows
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

DEFAULTS = {
    "vocab_size": 256_008, "max_position_embeddings": 2048, "d_model": 1024, "ffn_dim": 4096, "num_layers": 24,
    "attention_heads": 16, "activation_function": "gelu", "dropout": 0.1, "attention_dropout": 0.1,
    "scale_embedding": True, "tie_word_embeddings": True,
}  # fmt: skip
TABLE = Table(
    (
        Row("embed", "model.embed_tokens.weight"),
        *sublayer_rows("model.layers.{i}"),
        *torch_norm("final_norm", "model.layer_norm"),
        Row("head", "lm_head.weight", TRANSPOSED),
    ),
    ignored=("model.embed_positions.weights",),
    copies=(("lm_head.weight", "model.embed_tokens.weight"),),
)


def _read(a: Attributes) -> DecoderConfig:
    heads = read_equal_heads(a, "d_model", "attention_heads")
    activation, dropout = a.one_of("activation_function", ACTIVATIONS), a.number("attention_dropout")
    return DecoderConfig(
        vocab_size=a.integer("vocab_size"),
        d_model=a.integer("d_model"),
        num_layers=a.integer("num_layers", most=MOST_LAYERS),
        context_length=a.integer("max_position_embeddings"),
        attention=AttentionConfig(**heads, qkv_bias=True, out_bias=True, dropout=dropout),
        mlp=MlpConfig(d_ff=a.integer("ffn_dim"), gated=False, bias=True, activation=activation),
        norm=NormConfig(kind="layer", epsilon=EPSILON, bias=True),
        position="sinusoidal",
        position_offset=OFFSET,
        tied_head=a.take("tie_word_embeddings", bool),
        scaled_embedding=a.take("scale_embedding", bool),
        dropout=a.number("dropout"),
    )


def _write(c: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size, "max_position_embeddings": c.context_length, "d_model": c.d_model,
        "ffn_dim": c.mlp.d_ff, "num_layers": c.num_layers, "attention_heads": c.attention.num_heads,
        "activation_function": write_activation(c, tanh="gelu_new"), "dropout": c.dropout,
        "attention_dropout": c.attention.dropout, "scale_embedding": c.scaled_embedding,
        "tie_word_embeddings": c.tied_head,
    }  # fmt: skip


FAMILIES = (Family("xglm", "XGLMForCausalLM", TABLE, DEFAULTS, _read, _write),)
