"""BLOOM in the format of transformers: ALiBi, a norm of the embeddings, kernels joined head by head."""

import functools
from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import MOST_LAYERS, Family, read_equal_heads
from fmzoo.interop.gpt_neox import joined_rows
from fmzoo.interop.layouts import TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_linear, torch_norm
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

DEFAULTS = {
    "vocab_size": 250_880, "hidden_size": 64, "n_layer": 2, "n_head": 8, "layer_norm_epsilon": 1e-5,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "tie_word_embeddings": True, "seq_length": 2048,
}  # fmt: skip
ALIASES = {"hidden_size": "n_embed", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
FUSIONS = (  # of kernels of the training code, and what sliced products cost in accuracy
    "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "skip_bias_add",
    "skip_bias_add_qkv", "slow_but_exact", "unk_token_id",
)  # fmt: skip


@functools.cache
def _table(head_dim: int) -> Table:
    ours, theirs = "layers/{i}", "transformer.h.{i}"
    rows = (
        Row("embed", "transformer.word_embeddings.weight"),
        *torch_norm("embed_norm", "transformer.word_embeddings_layernorm"),
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm"),
        *torch_norm(f"{ours}/mlp_norm", f"{theirs}.post_attention_layernorm"),
        *joined_rows(f"{theirs}.self_attention.query_key_value", head_dim),
        *torch_linear(f"{ours}/attention/out", f"{theirs}.self_attention.dense"),
        *torch_linear(f"{ours}/mlp/up", f"{theirs}.mlp.dense_h_to_4h"),
        *torch_linear(f"{ours}/mlp/down", f"{theirs}.mlp.dense_4h_to_h"),
        *torch_norm("final_norm", "transformer.ln_f"),
        Row("head", "lm_head.weight", TRANSPOSED),
    )
    starts = ("word_embeddings.", "word_embeddings_layernorm.", "h.", "ln_f.")
    renames = tuple((start, f"transformer.{start}") for start in starts)
    return Table(rows, renames=renames, copies=(("lm_head.weight", "transformer.word_embeddings.weight"),))


def _read(a: Attributes) -> DecoderConfig:
    for name in FUSIONS:
        a.take(name, bool, float, int, optional=True)
    a.demand("apply_residual_connection_post_layernorm", False)
    width_name, heads_name, depth_name = (_name(a, name) for name in ALIASES)
    width, heads = a.integer(width_name), read_equal_heads(a, width_name, heads_name)
    a.demand("n_inner", None, 4 * width)
    return DecoderConfig(
        vocab_size=a.integer("vocab_size"),
        d_model=width,
        num_layers=a.integer(depth_name, most=MOST_LAYERS),
        context_length=a.integer("seq_length"),
        attention=AttentionConfig(**heads, qkv_bias=True, out_bias=True, dropout=a.number("attention_dropout")),
        mlp=MlpConfig(d_ff=4 * width, gated=False, bias=True, activation="gelu_tanh"),
        norm=NormConfig(kind="layer", epsilon=a.number("layer_norm_epsilon"), bias=True),
        position="alibi",
        tied_head=a.take("tie_word_embeddings", bool),
        embed_norm=True,
        dropout=a.number("hidden_dropout"),
    )


def _name(a: Attributes, name: str) -> str:
    """What the config calls an attribute that has two names; where both are there, they must agree."""
    value = a.take(ALIASES[name], int, optional=True)
    if value is None:
        return name
    a.demand(name, value)
    return ALIASES[name]


def _write(c: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size, "hidden_size": c.d_model, "n_layer": c.num_layers,
        "n_head": c.attention.num_heads, "layer_norm_epsilon": c.norm.epsilon, "hidden_dropout": c.dropout,
        "attention_dropout": c.attention.dropout, "tie_word_embeddings": c.tied_head, "seq_length": c.context_length,
    }  # fmt: skip


FAMILIES = (Family("bloom", "BloomForCausalLM", lambda c: _table(c.attention.head_dim), DEFAULTS, _read, _write),)
