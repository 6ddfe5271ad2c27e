"""What a family of models is in the format of transformers, and what the families with Llama's names share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.layouts import TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_linear
from fmzoo.interop.rope import write_rope
from fmzoo.models import DecoderConfig
from fmzoo.models.config import Kind

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
MOST_LAYERS = 1000
KINDS: dict[str, Kind] = {"full_attention": "global", "sliding_attention": "local"}


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      model_type: as `config.json` has it.
      architecture: the class of transformers that reads what is written.
      table: the mapping of its weights, or what gives it for a config.
      defaults: attributes that a `config.json` may leave out, with the values that transformers then takes.
      read: the config that attributes stand for.
      write: the attributes of a config, without `model_type`; None for a family that is only read. It may lose what the
        family does not know, since who writes reads back and compares.
    """

    model_type: str
    architecture: str
    table: Table | Callable[[DecoderConfig], Table]
    defaults: dict[str, Any]
    read: Callable[[Attributes], DecoderConfig]
    write: Callable[[DecoderConfig], dict[str, Any]] | None

    def mapping(self, config: DecoderConfig) -> Table:
        """The mapping of the weights of a config of this family."""
        return self.table if isinstance(self.table, Table) else self.table(config)


def llama_rows(norms: dict[str, str]) -> tuple[Row, ...]:
    """The rows of a family with the names of Llama, given our name of each norm of a block and theirs."""
    ours, theirs = "layers/{i}", "model.layers.{i}"
    linear = {f"attention/{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value", "out")}
    linear |= {f"mlp/{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    scales = {f"attention/{name}_norm": f"self_attn.{name[0]}_norm" for name in ("query", "key")} | norms
    return (
        Row("embed", "model.embed_tokens.weight"),
        *(Row(f"{ours}/{a}/scale", f"{theirs}.{b}.weight") for a, b in scales.items()),
        *(row for a, b in linear.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")),
        Row("final_norm/scale", "model.norm.weight"),
        Row("head", "lm_head.weight", TRANSPOSED),
    )


def llama_table(rows: tuple[Row, ...], **options: Any) -> Table:
    """The table of such a family: tied heads may be stored twice, old files hold the rotary frequencies."""
    ignored = ("model.layers.{i}.self_attn.rotary_emb.inv_freq", *options.pop("ignored", ()))
    return Table(rows, ignored=ignored, copies=(("lm_head.weight", "model.embed_tokens.weight"),), **options)


def read_depth(a: Attributes) -> int:
    """How many layers there are."""
    return a.integer("num_hidden_layers", most=MOST_LAYERS)


def read_sizes(a: Attributes) -> dict[str, Any]:
    """The fields of `DecoderConfig` that say how large a model with Llama's attribute names is."""
    return {
        "vocab_size": a.integer("vocab_size"),
        "d_model": a.integer("hidden_size"),
        "num_layers": read_depth(a),
        "context_length": a.integer("max_position_embeddings"),
        "tied_head": a.take("tie_word_embeddings", bool),
    }


def read_heads(a: Attributes, d_model: int) -> dict[str, int]:
    """The fields of `AttentionConfig` that count heads; a missing head_dim is the share of the width."""
    heads = a.integer("num_attention_heads")
    return {
        "num_heads": heads,
        "num_kv_heads": a.integer("num_key_value_heads", optional=True) or heads,
        "head_dim": a.integer("head_dim", optional=True) or max(d_model // heads, 1),
    }


def read_equal_heads(a: Attributes, width: str, heads: str) -> dict[str, int]:
    """The fields of `AttentionConfig` that count heads where they share the width and each has keys of its own."""
    d_model, count = a.integer(width), a.integer(heads)
    if d_model % count:
        raise a.refuse(width, d_model, f"a multiple of {heads} {count}")
    return {"num_heads": count, "num_kv_heads": count, "head_dim": d_model // count}


def write_sizes(c: DecoderConfig) -> dict[str, Any]:
    """The attributes that all families with Llama's names have."""
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.mlp.d_ff,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.attention.num_heads,
        "num_key_value_heads": c.attention.num_kv_heads,
        "head_dim": c.attention.head_dim,
        "max_position_embeddings": c.context_length,
        "rms_norm_eps": c.norm.epsilon,
        "tie_word_embeddings": c.tied_head,
        "attention_bias": c.attention.out_bias,
        "attention_dropout": c.attention.dropout,
        **write_rope(c.rope),
    }


def write_activation(c: DecoderConfig, tanh: str = "gelu_pytorch_tanh") -> str:
    """The name of the activation, of which GELU by tanh has several."""
    return {"gelu_tanh": tanh}.get(c.mlp.activation, c.mlp.activation)


def write_kinds(c: DecoderConfig) -> list[str]:
    """`layer_types`, in which a layer that does not turn is one that sees all."""
    return ["sliding_attention" if kind == "local" else "full_attention" for kind in c.kinds]


def read_kinds(a: Attributes, num_layers: int, default: Sequence[Kind]) -> dict[str, tuple[Kind, ...]]:
    """The prefix and pattern that `layer_types`, or else a family's default, stands for."""
    named = a.take("layer_types", list, optional=True)
    if named is None:
        return group_layers(tuple(default))
    if len(named) != num_layers or any(name not in list(KINDS) for name in named):
        raise a.refuse("layer_types", named, f"{num_layers} of {' or '.join(KINDS)}")
    return group_layers(tuple(KINDS[name] for name in named))


def group_layers(kinds: tuple[Kind, ...]) -> dict[str, tuple[Kind, ...]]:
    """The prefix and pattern with the fewest layers together whose repetition, cut short, gives the layers.

    >>> group_layers(("local", "local", "global", "local"))
    {'prefix': (), 'pattern': ('local', 'local', 'global')}
    """
    starts = range(len(kinds))
    start = min(starts, key=lambda start: start + _shortest_period(kinds[start:]), default=0)
    period = _shortest_period(kinds[start:])
    return {"prefix": kinds[:start], "pattern": kinds[start : start + period] or ("global",)}


def _shortest_period(kinds: tuple[Kind, ...]) -> int:
    """After how many layers they repeat, cut short or not (Knuth, Morris and Pratt 1977): linear in their number."""
    borders = [0] * len(kinds)  # of each beginning, the longest proper beginning that also ends it
    for i in range(1, len(kinds)):
        size = borders[i - 1]
        while size and kinds[i] != kinds[size]:
            size = borders[size - 1]
        borders[i] = size + (kinds[i] == kinds[size])
    return len(kinds) - borders[-1] if kinds else 0
