"""Phi 1, 1.5 and 2, and Phi 3, in the format of transformers: two architectures with one name."""

from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import (
    ACTIVATIONS,
    Family,
    llama_table,
    read_heads,
    read_sizes,
    write_activation,
    write_sizes,
)
from fmzoo.interop.layouts import TRANSPOSED, joined
from fmzoo.interop.mapping import Row, Table, torch_linear, torch_norm
from fmzoo.interop.rope import Names, read_rope
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

OURS, THEIRS = "layers/{i}", "model.layers.{i}"
DEFAULTS = {
    "vocab_size": 51_200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
    "num_attention_heads": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attention_dropout": 0.0,
    "hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "rope_theta": 10_000.0,
    "tie_word_embeddings": False, "qk_layernorm": False,
}  # fmt: skip
THIRD = DEFAULTS | {
    "vocab_size": 32_064, "hidden_size": 3072, "num_hidden_layers": 32, "hidden_act": "silu",
    "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
}  # fmt: skip


def _table() -> Table:
    linear = {f"attention/{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")}
    linear |= {"attention/out": "self_attn.dense", "mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"}
    norms = {"attention_norm": "input_layernorm"}
    norms |= {f"attention/{name}_norm": f"self_attn.{name[0]}_layernorm" for name in ("query", "key")}
    rows = (
        Row("embed", "model.embed_tokens.weight"),
        *(row for a, b in norms.items() for row in torch_norm(f"{OURS}/{a}", f"{THEIRS}.{b}")),
        *(row for a, b in linear.items() for row in torch_linear(f"{OURS}/{a}", f"{THEIRS}.{b}")),
        *torch_norm("final_norm", "model.final_layernorm"),
        Row("head", "lm_head.weight", TRANSPOSED),
        Row("head_bias", "lm_head.bias"),
    )
    return llama_table(rows)


def _third_table() -> Table:
    heads = tuple(f"{OURS}/attention/{name}/kernel" for name in ("query", "key", "value"))
    halves = tuple(f"{OURS}/mlp/{name}/kernel" for name in ("gate", "up"))
    rows = (
        Row("embed", "model.embed_tokens.weight"),
        Row(f"{OURS}/attention_norm/scale", f"{THEIRS}.input_layernorm.weight"),
        Row(f"{OURS}/mlp_norm/scale", f"{THEIRS}.post_attention_layernorm.weight"),
        Row(heads, f"{THEIRS}.self_attn.qkv_proj.weight", joined(-1, TRANSPOSED)),
        Row(f"{OURS}/attention/out/kernel", f"{THEIRS}.self_attn.o_proj.weight", TRANSPOSED),
        Row(halves, f"{THEIRS}.mlp.gate_up_proj.weight", joined(-1, TRANSPOSED)),
        Row(f"{OURS}/mlp/down/kernel", f"{THEIRS}.mlp.down_proj.weight", TRANSPOSED),
        Row("final_norm/scale", "model.norm.weight"),
        Row("head", "lm_head.weight", TRANSPOSED),
    )
    return llama_table(rows)


def _read(a: Attributes) -> DecoderConfig:
    """The dropout of branches also counts for embeddings, whose own is 0 in the releases."""
    sizes, heads = read_sizes(a), _read_heads(a)
    norm = "head" if a.take("qk_layernorm", bool) else "none"
    activation = a.one_of("hidden_act", ACTIVATIONS)
    return DecoderConfig(
        **sizes,
        attention=AttentionConfig(**heads, qkv_bias=True, out_bias=True, qk_norm=norm),
        mlp=MlpConfig(d_ff=a.integer("intermediate_size"), activation=activation, gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=a.number("layer_norm_eps"), bias=True),
        rope=read_rope(a, sizes["context_length"], Names(fraction=0.5)),
        block="parallel_shared_norm",
        head_bias=True,
        dropout=a.number("resid_pdrop"),
    )


def _read_three(a: Attributes) -> DecoderConfig:
    sizes, heads = read_sizes(a), _read_heads(a)
    a.demand("attention_bias", False)
    window, activation = a.integer("sliding_window", optional=True), a.one_of("hidden_act", ACTIVATIONS)
    if window is not None and window >= sizes["context_length"]:  # as the models with a long context have it
        window = None
    rope = read_rope(a, sizes["context_length"], Names(fraction=1.0))
    if rope.scaling not in ("none", "longrope"):
        raise a.refuse("rope_scaling", rope.scaling, "longrope, or none,")
    return DecoderConfig(
        **sizes,
        attention=AttentionConfig(**heads, window=window),
        mlp=MlpConfig(d_ff=a.integer("intermediate_size"), activation=activation),
        norm=NormConfig(epsilon=a.number("rms_norm_eps")),
        pattern=("local" if window else "global",),
        rope=rope,
        dropout=a.number("resid_pdrop"),
    )


def _read_heads(a: Attributes) -> dict[str, Any]:
    a.take("auto_map", dict, optional=True)  # where the code was before transformers had it
    a.number("embd_pdrop")
    return read_heads(a, a.integer("hidden_size")) | {"dropout": a.number("attention_dropout")}


def _write_sizes(c: DecoderConfig) -> dict[str, Any]:
    """What both write; neither has a head width of its own."""
    dropped = {"resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "partial_rotary_factor": c.rope.fraction}
    unknown = ("head_dim", "attention_bias", "rms_norm_eps")
    return {name: value for name, value in write_sizes(c).items() if name not in unknown} | dropped


def _write(c: DecoderConfig) -> dict[str, Any]:
    return _write_sizes(c) | {
        "hidden_act": write_activation(c, tanh="gelu_new"),
        "layer_norm_eps": c.norm.epsilon,
        "qk_layernorm": c.attention.qk_norm == "head",
    }


def _write_three(c: DecoderConfig) -> dict[str, Any]:
    sizes, original = _write_sizes(c), c.context_length
    if c.rope.scaling == "longrope":  # version 4 accepts three fields and no others
        scaling, original = sizes["rope_scaling"], c.rope.original_context
        left_out = ("rope_type", "original_max_position_embeddings")
        kept = {name: value for name, value in scaling.items() if name not in left_out}
        sizes["rope_scaling"] = {"type": "longrope"} | kept
    return sizes | {
        "hidden_act": write_activation(c),
        "rms_norm_eps": c.norm.epsilon,
        "original_max_position_embeddings": original,
        "sliding_window": c.attention.window if "local" in c.kinds else None,
    }


FAMILIES = (
    Family("phi", "PhiForCausalLM", _table(), DEFAULTS, _read, _write),
    Family("phi3", "Phi3ForCausalLM", _third_table(), THIRD, _read_three, _write_three),
)
