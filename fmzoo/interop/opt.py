"""OPT in the format of transformers: GPT-3's block with ReLU; the first two rows of the table of positions are spare.

The 350M model has narrower embeddings, projected in and out, norms after the sums and no final norm.
"""

from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import ACTIVATIONS, Family, read_depth, read_equal_heads, write_activation
from fmzoo.interop.layouts import TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_linear, torch_norm
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

DEFAULTS = {
    "vocab_size": 50_272, "hidden_size": 768, "num_hidden_layers": 12, "ffn_dim": 3072,
    "max_position_embeddings": 2048, "do_layer_norm_before": True, "_remove_final_layer_norm": False,
    "dropout": 0.1, "attention_dropout": 0.0, "num_attention_heads": 12, "activation_function": "relu",
    "enable_bias": True, "tie_word_embeddings": True,
}  # fmt: skip
OFFSET = 2
EPSILON = 1e-5  # no attribute of the config


def sublayer_rows(theirs: str) -> tuple[Row, ...]:
    """The rows of a layer with fairseq's names: norms, projections and the two kernels between them."""
    ours = "layers/{i}"
    linear = {f"attention/{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")}
    linear |= {"attention/out": "self_attn.out_proj", "mlp/up": "fc1", "mlp/down": "fc2"}
    return (
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.self_attn_layer_norm"),
        *torch_norm(f"{ours}/mlp_norm", f"{theirs}.final_layer_norm"),
        *(row for a, b in linear.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")),
    )


TABLE = Table(
    (
        Row("embed", "model.decoder.embed_tokens.weight"),
        Row("embed_in", "model.decoder.project_in.weight", TRANSPOSED),
        Row("position_embed", "model.decoder.embed_positions.weight"),
        *sublayer_rows("model.decoder.layers.{i}"),
        *torch_norm("final_norm", "model.decoder.final_layer_norm"),
        Row("embed_out", "model.decoder.project_out.weight", TRANSPOSED),
        Row("head", "lm_head.weight", TRANSPOSED),
    ),
    renames=(("decoder.", "model.decoder."),),
    copies=(("lm_head.weight", "model.decoder.embed_tokens.weight"),),
)


def _read(a: Attributes) -> DecoderConfig:
    a.demand("layer_norm_elementwise_affine", True)
    width, heads = a.integer("hidden_size"), read_equal_heads(a, "hidden_size", "num_attention_heads")
    before, removed = a.take("do_layer_norm_before", bool), a.take("_remove_final_layer_norm", bool)
    bias, inner = a.take("enable_bias", bool), a.integer("word_embed_proj_dim", optional=True)
    activation = a.one_of("activation_function", ACTIVATIONS)
    return DecoderConfig(
        vocab_size=a.integer("vocab_size"),
        d_model=width,
        num_layers=read_depth(a),
        context_length=a.integer("max_position_embeddings"),
        attention=AttentionConfig(**heads, qkv_bias=bias, out_bias=bias, dropout=a.number("attention_dropout")),
        mlp=MlpConfig(d_ff=a.integer("ffn_dim"), gated=False, bias=bias, activation=activation),
        norm=NormConfig(kind="layer", epsilon=EPSILON, bias=True, placement="pre" if before else "residual"),
        position="learned",
        position_offset=OFFSET,
        tied_head=a.take("tie_word_embeddings", bool),
        final_norm=before and not removed,
        embed_dim=None if inner in (None, width) else inner,
        dropout=a.number("dropout"),
    )


def _write(c: DecoderConfig) -> dict[str, Any]:
    before = c.norm.placement == "pre"
    return {
        "vocab_size": c.vocab_size, "hidden_size": c.d_model, "num_hidden_layers": c.num_layers,
        "ffn_dim": c.mlp.d_ff, "max_position_embeddings": c.context_length, "do_layer_norm_before": before,
        "_remove_final_layer_norm": before and not c.final_norm, "word_embed_proj_dim": c.embed_dim or c.d_model,
        "num_attention_heads": c.attention.num_heads, "activation_function": write_activation(c, tanh="gelu_new"),
        "enable_bias": c.attention.qkv_bias, "layer_norm_elementwise_affine": True, "dropout": c.dropout,
        "attention_dropout": c.attention.dropout, "tie_word_embeddings": c.tied_head,
    }  # fmt: skip


FAMILIES = (Family("opt", "OPTForCausalLM", TABLE, DEFAULTS, _read, _write),)
