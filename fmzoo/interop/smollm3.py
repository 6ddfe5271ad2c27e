"""SmolLM3 in the format of transformers: Llama in which every fourth layer does not turn its queries and keys."""

from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import (
    ACTIVATIONS,
    KINDS,
    Family,
    group_layers,
    llama_rows,
    llama_table,
    read_heads,
    read_sizes,
    write_activation,
    write_kinds,
    write_sizes,
)
from fmzoo.interop.rope import read_rope
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.models.config import Kind

TABLE = llama_table(llama_rows({"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}))
DEFAULTS = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 4, "hidden_act": "silu", "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6, "rope_theta": 2_000_000.0, "use_sliding_window": False, "no_rope_layer_interval": 4,
    "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "tie_word_embeddings": True,
}  # fmt: skip


def _read(a: Attributes) -> DecoderConfig:
    sizes, bias = read_sizes(a), a.take("attention_bias", bool)
    heads = read_heads(a, sizes["d_model"]) | {"dropout": a.number("attention_dropout")}
    window = a.integer("sliding_window", optional=True)
    a.take("max_window_layers", int, optional=True)  # of Qwen; transformers does not read it here
    activation, mlp_bias = a.one_of("hidden_act", ACTIVATIONS), a.take("mlp_bias", bool)
    return DecoderConfig(
        **sizes,
        **_read_layers(a, sizes["num_layers"]),
        attention=AttentionConfig(**heads, qkv_bias=bias, out_bias=bias, window=window),
        mlp=MlpConfig(d_ff=a.integer("intermediate_size"), activation=activation, bias=mlp_bias),
        norm=NormConfig(epsilon=a.number("rms_norm_eps")),
        rope=read_rope(a, sizes["context_length"]),
    )


def _read_layers(a: Attributes, num_layers: int) -> dict[str, tuple[Kind, ...]]:
    """`no_rope_layers` has a 0 for a layer that does not turn; those have no window."""
    interval, windows = a.integer("no_rope_layer_interval"), a.take("use_sliding_window", bool)
    turning = a.take("no_rope_layers", list, optional=True)
    if turning is None:
        turning = [int((i + 1) % interval != 0) for i in range(num_layers)]
    if len(turning) < num_layers or any(flag not in (0, 1) for flag in turning):
        raise a.refuse("no_rope_layers", turning, f"{num_layers} of 0 or 1")
    turning = turning[:num_layers]
    named = a.take("layer_types", list, optional=True)
    if named is None:
        named = ["sliding_attention" if windows and not flag else "full_attention" for flag in turning]
    if len(named) != num_layers or any(name not in list(KINDS) for name in named):
        raise a.refuse("layer_types", named, f"{num_layers} of {' or '.join(KINDS)}")
    local = [name == "sliding_attention" for name in named]
    if any(local) and (not windows or any(here and not flag for here, flag in zip(local, turning, strict=True))):
        raise a.refuse("layer_types", named, "use_sliding_window and no window in a layer that does not turn")
    return group_layers(
        tuple("local" if here else ("global" if flag else "nope") for here, flag in zip(local, turning, strict=True))
    )


def _write(c: DecoderConfig) -> dict[str, Any]:
    local = "local" in c.kinds
    return write_sizes(c) | {
        "hidden_act": write_activation(c),
        "mlp_bias": c.mlp.bias,
        "no_rope_layers": [int(kind != "nope") for kind in c.kinds],
        "layer_types": write_kinds(c),
        "use_sliding_window": local,
        "sliding_window": c.attention.window if local else None,
    }


FAMILIES = (Family("smollm3", "SmolLM3ForCausalLM", TABLE, DEFAULTS, _read, _write),)
