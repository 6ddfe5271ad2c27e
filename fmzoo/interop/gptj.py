"""GPT-J in the format of transformers: one norm for both halves, pairs of neighbours turn, the head has a bias."""

import math
from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import ACTIVATIONS, MOST_LAYERS, Family, read_equal_heads, write_activation
from fmzoo.interop.gpt2 import IGNORED
from fmzoo.interop.layouts import TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_linear, torch_norm
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig

DEFAULTS = {
    "vocab_size": 50_400, "n_positions": 2048, "n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64,
    "activation_function": "gelu_new", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip


def _table() -> Table:
    ours, theirs = "layers/{i}", "transformer.h.{i}"
    linear = {f"attention/{name}": f"attn.{name[0]}_proj" for name in ("query", "key", "value")}
    linear |= {"attention/out": "attn.out_proj", "mlp/up": "mlp.fc_in", "mlp/down": "mlp.fc_out"}
    rows = (
        Row("embed", "transformer.wte.weight"),
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.ln_1"),
        *(row for a, b in linear.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")),
        *torch_norm("final_norm", "transformer.ln_f"),
        Row("head", "lm_head.weight", TRANSPOSED),
        Row("head_bias", "lm_head.bias"),
    )
    masks = tuple(f"{theirs}.attn.{name}" for name in ("bias", "masked_bias", "embed_positions"))
    return Table(rows, ignored=masks, copies=(("lm_head.weight", "transformer.wte.weight"),))


def _read(a: Attributes) -> DecoderConfig:
    for name in IGNORED:
        a.take(name, str, bool, float, optional=True)
    a.demand("scale_attn_weights", True)
    a.demand("rotary", True)
    context, heads = a.integer("n_positions"), read_equal_heads(a, "n_embd", "n_head")
    a.demand("n_ctx", context)
    width, dropout = a.integer("n_embd"), a.number("resid_pdrop")
    a.number("embd_pdrop")  # of training: embeddings are dropped as branches are
    rotated = a.integer("rotary_dim", most=heads["head_dim"])
    return DecoderConfig(
        vocab_size=a.integer("vocab_size"),
        d_model=width,
        num_layers=a.integer("n_layer", most=MOST_LAYERS),
        context_length=context,
        attention=AttentionConfig(**heads, dropout=a.number("attn_pdrop")),
        mlp=MlpConfig(
            d_ff=a.integer("n_inner", optional=True) or 4 * width, gated=False, bias=True,
            activation=a.one_of("activation_function", ACTIVATIONS),
        ),
        norm=NormConfig(kind="layer", epsilon=a.number("layer_norm_epsilon"), bias=True),
        rope=RopeConfig(fraction=_share(rotated, heads["head_dim"]), interleaved=True),
        block="parallel_shared_norm",
        tied_head=a.take("tie_word_embeddings", bool),
        head_bias=True,
        dropout=dropout,
    )  # fmt: skip


def _share(part: int, whole: int) -> float:
    """The fraction of a whole that is a part when it is multiplied by the whole and rounded down."""
    fraction = part / whole
    return fraction if int(whole * fraction) == part else math.nextafter(fraction, 1)


def _write(c: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size, "n_positions": c.context_length, "n_embd": c.d_model, "n_layer": c.num_layers,
        "n_head": c.attention.num_heads, "n_inner": c.mlp.d_ff,
        "rotary_dim": int(c.attention.head_dim * c.rope.fraction),
        "activation_function": write_activation(c, tanh="gelu_new"), "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout, "attn_pdrop": c.attention.dropout, "layer_norm_epsilon": c.norm.epsilon,
        "tie_word_embeddings": c.tied_head,
    }  # fmt: skip


FAMILIES = (Family("gptj", "GPTJForCausalLM", _table(), DEFAULTS, _read, _write),)
