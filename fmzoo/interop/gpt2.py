"""GPT-2 in the format of transformers: kernels are stored [in, out] already, and q, k and v as one."""

from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import ACTIVATIONS, MOST_LAYERS, Family
from fmzoo.interop.layouts import TRANSPOSED, joined
from fmzoo.interop.mapping import Row, Table
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig

DEFAULTS = {
    "vocab_size": 50_257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "activation_function": "gelu_new", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "tie_word_embeddings": True,
}  # fmt: skip
IGNORED = ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")


def _rows() -> tuple[Row, ...]:
    ours, theirs = "layers/{i}", "transformer.h.{i}"
    norms = {f"{ours}/attention_norm": f"{theirs}.ln_1", f"{ours}/mlp_norm": f"{theirs}.ln_2"}
    linear = {"attention/out": "attn.c_proj", "mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"}
    parts = (("scale", "weight"), ("bias", "bias")), (("kernel", "weight"), ("bias", "bias"))
    norms["final_norm"] = "transformer.ln_f"
    return (
        Row("embed", "transformer.wte.weight"),
        Row("position_embed", "transformer.wpe.weight"),
        *(Row(f"{a}/{part}", f"{b}.{name}") for a, b in norms.items() for part, name in parts[0]),
        *(Row(f"{ours}/{a}/{part}", f"{theirs}.{b}.{name}") for a, b in linear.items() for part, name in parts[1]),
        *(
            Row(
                tuple(f"{ours}/attention/{n}/{part}" for n in ("query", "key", "value")),
                f"{theirs}.attn.c_attn.{name}",
                joined(-1),
            )
            for part, name in parts[1]
        ),
        Row("head", "lm_head.weight", TRANSPOSED),
    )


TABLE = Table(
    _rows(),
    renames=tuple((start, f"transformer.{start}") for start in ("wte.", "wpe.", "h.", "ln_f.")),
    ignored=("transformer.h.{i}.attn.bias", "transformer.h.{i}.attn.masked_bias"),
    copies=(("lm_head.weight", "transformer.wte.weight"),),
)


def _read(a: Attributes) -> DecoderConfig:
    for name in IGNORED:
        a.take(name, str, bool, float, optional=True)
    a.demand("scale_attn_by_inverse_layer_idx", False)
    a.demand("reorder_and_upcast_attn", False, True)  # another order of the same product
    width, heads, context = a.integer("n_embd"), a.integer("n_head"), a.integer("n_positions")
    a.demand("n_ctx", context)
    if width % heads:
        raise a.refuse("n_embd", width, f"a multiple of n_head {heads}")
    dropout = a.number("resid_pdrop")
    a.demand("embd_pdrop", dropout)
    scale = None if a.take("scale_attn_weights", bool) else 1.0
    return DecoderConfig(
        vocab_size=a.integer("vocab_size"),
        d_model=width,
        num_layers=a.integer("n_layer", most=MOST_LAYERS),
        context_length=context,
        attention=AttentionConfig(
            num_heads=heads, num_kv_heads=heads, head_dim=width // heads, scale=scale, qkv_bias=True, out_bias=True,
            dropout=a.number("attn_pdrop"),
        ),
        mlp=MlpConfig(
            d_ff=a.integer("n_inner", optional=True) or 4 * width, gated=False, bias=True,
            activation=a.one_of("activation_function", ACTIVATIONS),
        ),
        norm=NormConfig(kind="layer", epsilon=a.number("layer_norm_epsilon"), bias=True),
        position="learned",
        tied_head=a.take("tie_word_embeddings", bool),
        dropout=dropout,
    )  # fmt: skip


def _write(c: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size, "n_positions": c.context_length, "n_ctx": c.context_length, "n_embd": c.d_model,
        "n_layer": c.num_layers, "n_head": c.attention.num_heads, "n_inner": c.mlp.d_ff,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(c.mlp.activation, c.mlp.activation),
        "resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": c.attention.dropout,
        "layer_norm_epsilon": c.norm.epsilon, "scale_attn_weights": c.attention.scale is None,
        "tie_word_embeddings": c.tied_head,
    }  # fmt: skip


FAMILIES = (Family("gpt2", "GPT2LMHeadModel", TABLE, DEFAULTS, _read, _write),)
