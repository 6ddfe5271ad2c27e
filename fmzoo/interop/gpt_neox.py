"""GPT-NeoX and Pythia in the format of transformers: queries, keys and values of a head stand side by side."""

import functools
from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import ACTIVATIONS, Family, read_equal_heads, read_sizes, write_activation
from fmzoo.interop.layouts import TRANSPOSED, joined_by_head
from fmzoo.interop.mapping import Row, Table, torch_linear, torch_norm
from fmzoo.interop.rope import Names, read_rope, write_rope
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

DEFAULTS = {
    "vocab_size": 50_432, "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
    "intermediate_size": 24_576, "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 10_000.0,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False, "use_parallel_residual": True, "attention_bias": True,
}  # fmt: skip
ROPE = Names("rotary_emb_base", "rotary_pct", 0.25)
QKV = tuple(f"layers/{{i}}/attention/{name}" for name in ("query", "key", "value"))


@functools.cache
def _table(head_dim: int) -> Table:
    ours, theirs = "layers/{i}", "gpt_neox.layers.{i}"
    rows = (
        Row("embed", "gpt_neox.embed_in.weight"),
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm"),
        *torch_norm(f"{ours}/mlp_norm", f"{theirs}.post_attention_layernorm"),
        *joined_rows(f"{theirs}.attention.query_key_value", head_dim),
        *torch_linear(f"{ours}/attention/out", f"{theirs}.attention.dense"),
        *torch_linear(f"{ours}/mlp/up", f"{theirs}.mlp.dense_h_to_4h"),
        *torch_linear(f"{ours}/mlp/down", f"{theirs}.mlp.dense_4h_to_h"),
        *torch_norm("final_norm", "gpt_neox.final_layer_norm"),
        Row("head", "embed_out.weight", TRANSPOSED),
    )
    masks = tuple(f"{theirs}.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq"))
    copies = (("embed_out.weight", "gpt_neox.embed_in.weight"),)
    return Table(rows, renames=(("lm_head.", "embed_out."),), ignored=masks, copies=copies)


def joined_rows(theirs: str, head_dim: int) -> tuple[Row, Row]:
    """The rows of kernels and biases of queries, keys and values that are one tensor each, head by head."""
    kernels, biases = (tuple(f"{path}/{part}" for path in QKV) for part in ("kernel", "bias"))
    return (
        Row(kernels, f"{theirs}.weight", joined_by_head(head_dim, TRANSPOSED)),
        Row(biases, f"{theirs}.bias", joined_by_head(head_dim)),
    )


def _read(a: Attributes) -> DecoderConfig:
    for name in ("attention_probs_dropout_prob", "hidden_dropout_prob"):  # of 20B; transformers does not read them
        a.take(name, float, optional=True)
    sizes, bias = read_sizes(a), a.take("attention_bias", bool)
    heads = read_equal_heads(a, "hidden_size", "num_attention_heads")
    dropout = a.number("attention_dropout")
    return DecoderConfig(
        **sizes,
        attention=AttentionConfig(**heads, dropout=dropout, qkv_bias=bias, out_bias=bias),
        mlp=MlpConfig(
            d_ff=a.integer("intermediate_size"), gated=False, bias=True, activation=a.one_of("hidden_act", ACTIVATIONS)
        ),
        norm=NormConfig(kind="layer", epsilon=a.number("layer_norm_eps"), bias=True),
        rope=read_rope(a, sizes["context_length"], ROPE),
        block="parallel" if a.take("use_parallel_residual", bool) else "sequential",
        dropout=a.number("hidden_dropout"),
    )


def _write(c: DecoderConfig) -> dict[str, Any]:
    rope = write_rope(c.rope)
    return {
        "vocab_size": c.vocab_size, "hidden_size": c.d_model, "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.attention.num_heads, "intermediate_size": c.mlp.d_ff,
        "max_position_embeddings": c.context_length, "hidden_act": write_activation(c, tanh="gelu_fast"),
        "rotary_pct": c.rope.fraction, "rotary_emb_base": c.rope.theta, "rope_scaling": rope["rope_scaling"],
        "attention_dropout": c.attention.dropout, "hidden_dropout": c.dropout, "layer_norm_eps": c.norm.epsilon,
        "tie_word_embeddings": c.tied_head, "use_parallel_residual": c.block == "parallel",
        "attention_bias": c.attention.qkv_bias,
    }  # fmt: skip


FAMILIES = (Family("gpt_neox", "GPTNeoXForCausalLM", lambda c: _table(c.attention.head_dim), DEFAULTS, _read, _write),)
