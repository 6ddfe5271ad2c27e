"""Gemma 1 to 3 in the format of transformers; of multimodal Gemma 3 the language part is read."""

from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import (
    ACTIVATIONS,
    Family,
    llama_rows,
    llama_table,
    read_depth,
    read_heads,
    read_kinds,
    read_sizes,
    write_activation,
    write_kinds,
    write_sizes,
)
from fmzoo.interop.rope import read_rope, read_ropes
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.models.config import Kind

ONE = llama_table(llama_rows({"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}))
ROWS = llama_rows(
    {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)
TWO = llama_table(ROWS)
MULTIMODAL = llama_table(
    ROWS,
    renames=(
        ("language_model.model.", "model."),
        ("model.language_model.", "model."),
        ("language_model.lm_head.", "lm_head."),
    ),
    ignored=tuple(f"{root}{part}.*" for root in ("", "model.") for part in ("vision_tower", "multi_modal_projector")),
)
DEFAULTS = {
    "vocab_size": 256_000, "hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "rope_theta": 10_000.0,
    "attention_bias": False, "attention_dropout": 0.0,
}  # fmt: skip
SECOND = DEFAULTS | {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
    "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
}  # fmt: skip
THIRD = SECOND | {
    "vocab_size": 262_208, "max_position_embeddings": 131_072, "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip


def _decoder(a: Attributes, activation: str, attention: dict[str, Any], norm: str, **options: Any) -> DecoderConfig:
    """What the three share, with what each adds to it."""
    sizes, bias = read_sizes(a), a.take("attention_bias", bool)
    heads = read_heads(a, sizes["d_model"]) | {"dropout": a.number("attention_dropout")}
    return DecoderConfig(
        **sizes,
        **options,
        attention=AttentionConfig(**heads, **attention, qkv_bias=bias, out_bias=bias),
        mlp=MlpConfig(d_ff=a.integer("intermediate_size"), activation=activation),
        norm=NormConfig(epsilon=a.number("rms_norm_eps"), unit_offset=True, placement=norm),
        scaled_embedding=True,
    )


def _read_one(a: Attributes) -> DecoderConfig:
    """The releases say gelu and mean its tanh form."""
    a.demand("hidden_activation", "gelu_pytorch_tanh", None)
    activation = a.one_of("hidden_act", ACTIVATIONS | {"gelu": "gelu_tanh"})
    rope = read_rope(a, a.integer("max_position_embeddings"))
    return _decoder(a, activation, {}, "pre", rope=rope)


def _read_two(a: Attributes) -> DecoderConfig:
    attention = _read_attention(a) | {"logit_softcap": a.number("attn_logit_softcapping", optional=True)}
    a.demand("sliding_window_size", attention["window"])
    context, num_layers = a.integer("max_position_embeddings"), read_depth(a)
    layers = read_kinds(a, num_layers, _alternate(num_layers, 2))
    cap = a.number("final_logit_softcapping", optional=True)
    return _decoder(a, _activation(a), attention, "both", rope=read_rope(a, context), logit_softcap=cap, **layers)


def _read_three(a: Attributes) -> DecoderConfig:
    """Local layers turn by a theta of their own; the last of `sliding_window_pattern` layers is global."""
    attention = _read_attention(a) | {"qk_norm": "head"}
    a.demand("attn_logit_softcapping", None)  # is not applied by transformers
    context, num_layers = a.integer("max_position_embeddings"), read_depth(a)
    periods = [a.integer(name, optional=True) for name in ("sliding_window_pattern", "_sliding_window_pattern")]
    layers = read_kinds(a, num_layers, _alternate(num_layers, periods[0] or periods[1] or 6))
    rope, local = read_ropes(a, context)
    cap = a.number("final_logit_softcapping", optional=True)
    return _decoder(a, _activation(a), attention, "both", rope=rope, local_rope=local, logit_softcap=cap, **layers)


def _read_multimodal(a: Attributes) -> DecoderConfig:
    for name in ("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index"):
        a.take(name, dict, int, optional=True)
    a.demand("tie_word_embeddings", True)
    text = Attributes(a.take("text_config", dict), THIRD, f"text_config of {a.source}")
    config = _read_three(text)
    text.close()
    return config


def _read_attention(a: Attributes) -> dict[str, Any]:
    scale = a.number("query_pre_attn_scalar", above=0) ** -0.5
    return {"scale": scale, "window": a.integer("sliding_window", optional=True)}


def _activation(a: Attributes) -> str:
    a.demand("hidden_act", "gelu_pytorch_tanh", "gelu", None)  # not read by transformers either
    return a.one_of("hidden_activation", ACTIVATIONS)


def _alternate(num_layers: int, period: int) -> list[Kind]:
    return ["local" if (i + 1) % period else "global" for i in range(num_layers)]


def _write_two(c: DecoderConfig) -> dict[str, Any]:
    if c.d_model % c.attention.num_heads:
        raise InputError(f"d_model {c.d_model} must be a multiple of num_heads {c.attention.num_heads} to be a Gemma")
    scale = c.attention.head_dim**-0.5 if c.attention.scale is None else c.attention.scale
    return write_sizes(c) | {
        "hidden_activation": write_activation(c),
        "query_pre_attn_scalar": max(round(scale**-2), 1),
        "sliding_window": c.attention.window,
        "layer_types": write_kinds(c),
        "attn_logit_softcapping": c.attention.logit_softcap,
        "final_logit_softcapping": c.logit_softcap,
    }


def _write_three(c: DecoderConfig) -> dict[str, Any]:
    """Where no `layer_types` is read (transformers before 4.53), the distance between global layers counts."""
    local = c.local_rope or c.rope
    kinds = [*c.kinds, "global"]
    return _write_two(c) | {
        "rope_local_base_freq": local.theta,
        "sliding_window_pattern": kinds.index("global") + 1,
    }


FAMILIES = (
    Family(
        "gemma", "GemmaForCausalLM", ONE, DEFAULTS, _read_one,
        lambda c: write_sizes(c) | {"hidden_act": write_activation(c)},
    ),
    Family("gemma2", "Gemma2ForCausalLM", TWO, SECOND, _read_two, _write_two),
    Family("gemma3_text", "Gemma3ForCausalLM", TWO, THIRD, _read_three, _write_three),
    Family("gemma3", "Gemma3ForConditionalGeneration", MULTIMODAL, {}, _read_multimodal, None),
)  # fmt: skip
