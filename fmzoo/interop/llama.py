"""Llama 1 to 3.2, Mistral, Qwen 2, 2.5 and 3 in the format of transformers: one block, a few options each."""

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
from fmzoo.interop.rope import read_rope
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

TABLE = llama_table(llama_rows({"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}))
DEFAULTS = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False,
    "rope_theta": 10_000.0,
}  # fmt: skip
MISTRAL = DEFAULTS | {
    "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096,
}  # fmt: skip
QWEN = DEFAULTS | {
    "vocab_size": 151_936, "intermediate_size": 22_016, "num_key_value_heads": 32, "max_position_embeddings": 32_768,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
}  # fmt: skip


def _decoder(
    a: Attributes, layers: dict[str, Any] | None = None, mlp_bias: bool = False, **attention: Any
) -> DecoderConfig:
    """What the families share, with what each adds to it."""
    sizes = read_sizes(a)
    heads = read_heads(a, sizes["d_model"]) | {"dropout": a.number("attention_dropout")}
    activation = a.one_of("hidden_act", ACTIVATIONS)
    return DecoderConfig(
        **sizes,
        **(layers or {}),
        attention=AttentionConfig(**heads, **attention),
        mlp=MlpConfig(d_ff=a.integer("intermediate_size"), activation=activation, bias=mlp_bias),
        norm=NormConfig(epsilon=a.number("rms_norm_eps")),
        rope=read_rope(a, sizes["context_length"]),
    )


def _read_llama(a: Attributes) -> DecoderConfig:
    bias = a.take("attention_bias", bool)
    return _decoder(a, mlp_bias=a.take("mlp_bias", bool), qkv_bias=bias, out_bias=bias)


def _read_mistral(a: Attributes) -> DecoderConfig:
    """Every layer has the window; without one (version 0.2 and later) it is Llama."""
    a.demand("attention_bias", False)
    window = a.integer("sliding_window", optional=True)
    return _decoder(a, {"pattern": ("local" if window else "global",)}, window=window)


def _windows(a: Attributes) -> tuple[dict[str, Any], int | None]:
    """Qwen's layers, of which the first `max_window_layers` have no window, and the window."""
    used, window = a.take("use_sliding_window", bool), a.integer("sliding_window", optional=True)
    num_layers = read_depth(a)
    window = window if used else None
    first = a.integer("max_window_layers", least=0)
    kinds = ["global" if window is None or i < first else "local" for i in range(num_layers)]
    return read_kinds(a, num_layers, kinds), window


def _read_qwen2(a: Attributes) -> DecoderConfig:
    a.demand("attention_bias", True, None)
    layers, window = _windows(a)
    return _decoder(a, layers, window=window, qkv_bias=True)


def _read_qwen3(a: Attributes) -> DecoderConfig:
    bias = a.take("attention_bias", bool)
    layers, window = _windows(a)
    return _decoder(a, layers, window=window, qkv_bias=bias, out_bias=bias, qk_norm="head")


def _write_llama(c: DecoderConfig) -> dict[str, Any]:
    if c.d_model % c.attention.num_heads:
        raise InputError(f"d_model {c.d_model} must be a multiple of num_heads {c.attention.num_heads} to be a Llama")
    return write_sizes(c) | {"hidden_act": write_activation(c), "mlp_bias": c.mlp.bias}


def _write_mistral(c: DecoderConfig) -> dict[str, Any]:
    window = c.attention.window if "local" in c.kinds else None
    attributes = write_sizes(c) | {"hidden_act": write_activation(c), "sliding_window": window}
    del attributes["attention_bias"]
    return attributes


def _write_qwen3(c: DecoderConfig) -> dict[str, Any]:
    """Where no `layer_types` is read (transformers before 4.53), the layers with a window must be the last ones."""
    local = c.kinds.count("local")
    return write_sizes(c) | {
        "hidden_act": write_activation(c),
        "layer_types": write_kinds(c),
        "use_sliding_window": local > 0,
        "sliding_window": c.attention.window if local else None,
        "max_window_layers": c.num_layers - local,
    }


def _write_qwen2(c: DecoderConfig) -> dict[str, Any]:
    attributes = _write_qwen3(c)
    del attributes["attention_bias"]
    return attributes


FAMILIES = (
    Family("llama", "LlamaForCausalLM", TABLE, DEFAULTS, _read_llama, _write_llama),
    Family("mistral", "MistralForCausalLM", TABLE, MISTRAL, _read_mistral, _write_mistral),
    Family("qwen2", "Qwen2ForCausalLM", TABLE, QWEN, _read_qwen2, _write_qwen2),
    Family("qwen3", "Qwen3ForCausalLM", TABLE, QWEN | {"head_dim": 128}, _read_qwen3, _write_qwen3),
)
