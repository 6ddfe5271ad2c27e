"""Mixtral, Qwen 3 MoE and OLMoE in the format of transformers: Llama's block with experts in the feed-forward half."""

from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.experts import expert_rows, experts_of, ignore_training, read_experts
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
from fmzoo.interop.mapping import Table
from fmzoo.interop.rope import read_rope
from fmzoo.models import AttentionConfig, DecoderConfig, ExpertsConfig, MlpConfig, NormConfig

NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
MIXTRAL_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}
DEFAULTS = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu", "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_dropout": 0.0, "rope_theta": 1_000_000.0,
    "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN = DEFAULTS | {
    "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
    "num_key_value_heads": 4, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "attention_bias": False, "use_sliding_window": False, "decoder_sparse_step": 1, "moe_intermediate_size": 768,
    "num_local_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": False,
}  # fmt: skip
OLMOE = DEFAULTS | {
    "vocab_size": 50_304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": None, "max_position_embeddings": 4096, "rope_theta": 10_000.0,
    "attention_bias": False, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False,
}  # fmt: skip


def _table(config: DecoderConfig, theirs: str = "mlp", names: dict[str, str] | None = None) -> Table:
    return llama_table(llama_rows(NORMS) + expert_rows(config, theirs, names))


def _decoder(
    a: Attributes, experts: ExpertsConfig, d_ff: int, layers: dict[str, Any], **attention: Any
) -> DecoderConfig:
    """What the families share, with what each adds to it."""
    sizes = read_sizes(a)
    heads = read_heads(a, sizes["d_model"]) | {"dropout": a.number("attention_dropout")}
    ignore_training(a)
    return DecoderConfig(
        **sizes,
        **layers,
        attention=AttentionConfig(**heads, **attention),
        mlp=MlpConfig(d_ff=d_ff, activation=a.one_of("hidden_act", ACTIVATIONS)),
        experts=experts,
        norm=NormConfig(epsilon=a.number("rms_norm_eps")),
        rope=read_rope(a, sizes["context_length"]),
    )


def _read_experts(a: Attributes, number: str, d_ff: int, renormalised: bool, dense_layers: int = 0) -> ExpertsConfig:
    return ExpertsConfig(
        num_experts=read_experts(a, number),
        top_k=a.integer("num_experts_per_tok"),
        d_ff=d_ff,
        dense_layers=dense_layers,
        renormalised=renormalised,
    )


def _read_mixtral(a: Attributes) -> DecoderConfig:
    window, d_ff = a.integer("sliding_window", optional=True), a.integer("intermediate_size")
    experts = _read_experts(a, "num_local_experts", d_ff, renormalised=True)
    return _decoder(a, experts, d_ff, {"pattern": ("local" if window else "global",)}, window=window)


def _read_qwen3(a: Attributes) -> DecoderConfig:
    """Layers without experts are read where they are the first ones, which no release has."""
    a.demand("use_sliding_window", False)
    a.integer("sliding_window", optional=True)
    a.integer("max_window_layers", optional=True, least=0)
    a.demand("decoder_sparse_step", 1)
    without, bias = a.take("mlp_only_layers", list, optional=True) or [], a.take("attention_bias", bool)
    if without != list(range(len(without))):
        raise a.refuse("mlp_only_layers", without, "the first layers, counted from 0,")
    older = a.integer("num_experts", optional=True)
    if older is not None:
        a.demand("num_local_experts", older)
    number = "num_local_experts" if older is None else "num_experts"
    renormalised = a.take("norm_topk_prob", bool)
    experts = _read_experts(a, number, a.integer("moe_intermediate_size"), renormalised, len(without))
    layers = {"prefix": ("global",) * len(without)}
    d_ff = a.integer("intermediate_size")
    return _decoder(a, experts, d_ff, layers, qkv_bias=bias, out_bias=bias, qk_norm="head")


def _read_olmoe(a: Attributes) -> DecoderConfig:
    a.demand("clip_qkv", None)
    bias, d_ff = a.take("attention_bias", bool), a.integer("intermediate_size")
    experts = _read_experts(a, "num_experts", d_ff, a.take("norm_topk_prob", bool))
    return _decoder(a, experts, d_ff, {}, qkv_bias=bias, out_bias=bias, qk_norm="all")


def _write(c: DecoderConfig, number: str) -> dict[str, Any]:
    e = experts_of(c)
    return write_sizes(c) | {
        "hidden_act": write_activation(c),
        "intermediate_size": e.d_ff,
        number: e.num_experts,
        "num_experts_per_tok": e.top_k,
        "norm_topk_prob": e.renormalised,
    }


def _write_mixtral(c: DecoderConfig) -> dict[str, Any]:
    attributes = _write(c, "num_local_experts")
    attributes["sliding_window"] = c.attention.window if "local" in c.kinds else None
    del attributes["attention_bias"], attributes["norm_topk_prob"]
    return attributes


def _write_qwen3(c: DecoderConfig) -> dict[str, Any]:
    return _write(c, "num_experts") | {
        "intermediate_size": c.mlp.d_ff,
        "moe_intermediate_size": c.experts.d_ff,
        "mlp_only_layers": list(range(c.dense_layers)),
        "decoder_sparse_step": 1,
    }


def _write_olmoe(c: DecoderConfig) -> dict[str, Any]:
    if c.attention.head_dim * c.attention.num_heads != c.d_model:
        raise InputError(f"head_dim is {c.attention.head_dim}; d_model {c.d_model} divided by num_heads is needed")
    attributes = _write(c, "num_experts")
    del attributes["head_dim"]
    return attributes


FAMILIES = (
    Family(
        "mixtral", "MixtralForCausalLM", lambda c: _table(c, "block_sparse_moe", MIXTRAL_NAMES), DEFAULTS,
        _read_mixtral, _write_mixtral,
    ),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", _table, QWEN, _read_qwen3, _write_qwen3),
    Family("olmoe", "OlmoeForCausalLM", _table, OLMOE, _read_olmoe, _write_olmoe),
)  # fmt: skip
