"""GPT-Neo in the format of transformers: scores are not scaled, and every other layer sees a window."""

from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import ACTIVATIONS, MOST_LAYERS, Family, group_layers, read_equal_heads, write_activation
from fmzoo.interop.gpt2 import IGNORED
from fmzoo.interop.layouts import TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_linear, torch_norm
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.models.config import Kind

DEFAULTS = {
    "vocab_size": 50_257, "max_position_embeddings": 2048, "hidden_size": 2048, "num_layers": 24, "num_heads": 16,
    "attention_types": [[["global", "local"], 12]], "window_size": 256, "activation_function": "gelu_new",
    "resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0, "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip


def _table() -> Table:
    ours, theirs = "layers/{i}", "transformer.h.{i}"
    linear = {f"attention/{name}": f"attn.attention.{name[0]}_proj" for name in ("query", "key", "value")}
    linear |= {"attention/out": "attn.attention.out_proj", "mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"}
    rows = (
        Row("embed", "transformer.wte.weight"),
        Row("position_embed", "transformer.wpe.weight"),
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.ln_1"),
        *torch_norm(f"{ours}/mlp_norm", f"{theirs}.ln_2"),
        *(row for a, b in linear.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")),
        *torch_norm("final_norm", "transformer.ln_f"),
        Row("head", "lm_head.weight", TRANSPOSED),
    )
    masks = tuple(f"{theirs}.attn.attention.{name}" for name in ("bias", "masked_bias"))
    return Table(rows, ignored=masks, copies=(("lm_head.weight", "transformer.wte.weight"),))


def _read(a: Attributes) -> DecoderConfig:
    for name in IGNORED:
        a.take(name, str, bool, float, optional=True)
    width, heads = a.integer("hidden_size"), read_equal_heads(a, "hidden_size", "num_heads")
    num_layers, dropout = a.integer("num_layers", most=MOST_LAYERS), a.number("resid_dropout")
    a.number("embed_dropout")  # of training: embeddings are dropped as branches are
    return DecoderConfig(
        vocab_size=a.integer("vocab_size"),
        d_model=width,
        num_layers=num_layers,
        context_length=a.integer("max_position_embeddings"),
        attention=AttentionConfig(
            **heads, scale=1.0, out_bias=True, window=a.integer("window_size"), dropout=a.number("attention_dropout")
        ),
        mlp=MlpConfig(
            d_ff=a.integer("intermediate_size", optional=True) or 4 * width, gated=False, bias=True,
            activation=a.one_of("activation_function", ACTIVATIONS),
        ),
        norm=NormConfig(kind="layer", epsilon=a.number("layer_norm_epsilon"), bias=True),
        **_read_layers(a, num_layers),
        position="learned",
        tied_head=a.take("tie_word_embeddings", bool),
        dropout=dropout,
    )  # fmt: skip


def _read_layers(a: Attributes, num_layers: int) -> dict[str, tuple[Kind, ...]]:
    """`attention_types` holds pairs of kinds of layers and how often they repeat."""
    kinds: list[Any] = []
    for pair in (given := a.take("attention_types", list)):
        sound = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and type(pair[1]) is int
        if not sound or not 0 < len(pair[0]) * pair[1] <= num_layers - len(kinds):
            raise a.refuse("attention_types", given, f"lists of global and local with numbers, {num_layers} in all")
        kinds += pair[0] * pair[1]
    if len(kinds) != num_layers or any(kind not in ("global", "local") for kind in kinds):
        raise a.refuse("attention_types", given, f"{num_layers} of global or local")
    a.demand("attention_layers", kinds)
    return group_layers(tuple(kinds))


def _write(c: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size, "max_position_embeddings": c.context_length, "hidden_size": c.d_model,
        "num_layers": c.num_layers, "num_heads": c.attention.num_heads, "intermediate_size": c.mlp.d_ff,
        "attention_types": [[[kind], 1] for kind in c.kinds], "attention_layers": list(c.kinds),
        "window_size": c.attention.window or 256, "activation_function": write_activation(c, tanh="gelu_new"),
        "resid_dropout": c.dropout, "embed_dropout": c.dropout, "attention_dropout": c.attention.dropout,
        "layer_norm_epsilon": c.norm.epsilon, "tie_word_embeddings": c.tied_head,
    }  # fmt: skip


FAMILIES = (Family("gpt_neo", "GPTNeoForCausalLM", _table(), DEFAULTS, _read, _write),)
