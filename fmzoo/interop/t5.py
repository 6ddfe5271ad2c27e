"""T5's encoder in the format of transformers."""

import functools
from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.clip_text import stacked_structure
from fmzoo.interop.family import ACTIVATIONS, MOST_LAYERS
from fmzoo.interop.mapping import Row, Table, torch_linear
from fmzoo.interop.structure import Structure
from fmzoo.models.t5 import T5Config, T5Encoder

CLASS = "T5EncoderModel"
DEFAULTS = {
    "vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
}  # fmt: skip
FORWARDS = {name: (activation, False) for name, activation in ACTIVATIONS.items()}
FORWARDS |= {f"gated-{name}": (activation, True) for name, activation in ACTIVATIONS.items()}
FORWARDS["gated-gelu"] = ("gelu_tanh", True)  # what the name has stood for since version 1.1
NAMES = {value: name for name, value in reversed(FORWARDS.items())} | {("gelu_tanh", True): "gated-gelu"}


def _table(mlp: dict[str, str]) -> Table:
    ours, theirs = "layers/{i}", "encoder.block.{i}.layer"
    linear = {f"attention/{name}": f"0.SelfAttention.{name[0]}" for name in ("query", "key", "value", "out")}
    linear |= {f"mlp/{name}": f"1.DenseReluDense.{name_there}" for name, name_there in mlp.items()}
    rows = (
        Row("embed", "shared.weight"),
        Row("relative_bias", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        Row(f"{ours}/attention_norm/scale", f"{theirs}.0.layer_norm.weight"),
        Row(f"{ours}/mlp_norm/scale", f"{theirs}.1.layer_norm.weight"),
        *(torch_linear(f"{ours}/{a}", f"{theirs}.{b}")[0] for a, b in linear.items()),
        Row("final_norm/scale", "encoder.final_layer_norm.weight"),
    )
    copies = (("encoder.embed_tokens.weight", "shared.weight"),)
    return Table(rows, ignored=("decoder.*", "lm_head.weight"), copies=copies)


GATED, PLAIN = _table({"gate": "wi_0", "up": "wi_1", "down": "wo"}), _table({"up": "wi", "down": "wo"})


def table(config: T5Config) -> Table:
    """The mapping of an encoder's weights, which depends on whether its feed-forward halves are gated."""
    return GATED if config.gated else PLAIN


def read_config(values: dict[str, Any], source: str = "config.json") -> T5Config:
    """The config that the content of a `config.json` of T5 stands for; a decoder beside the encoder is left out.

    Raises:
      InputError: an attribute is unknown or has a value that cannot be.
    """
    derived = ("is_encoder_decoder", "dense_act_fn", "is_gated_act", "tie_word_embeddings", "scale_decoder_outputs")
    values = {name: value for name, value in values.items() if name not in derived}
    a = Attributes(values, DEFAULTS, source)
    for name in ("dropout_rate", "classifier_dropout", "initializer_factor"):  # of training
        a.take(name, float, optional=True)
    for name in ("num_decoder_layers", "decoder_start_token_id", "n_positions"):  # of the decoder, or of no use
        a.take(name, int, optional=True)
    activation, gated = a.one_of("feed_forward_proj", FORWARDS)
    config = T5Config(
        vocab_size=a.integer("vocab_size"),
        d_model=a.integer("d_model"),
        num_layers=a.integer("num_layers", most=MOST_LAYERS),
        num_heads=a.integer("num_heads"),
        head_dim=a.integer("d_kv"),
        d_ff=a.integer("d_ff"),
        activation=activation,
        gated=gated,
        num_buckets=a.integer("relative_attention_num_buckets"),
        max_distance=a.integer("relative_attention_max_distance"),
        epsilon=a.number("layer_norm_epsilon", above=0),
    )
    a.close()
    return config


def write_config(config: T5Config) -> dict[str, Any]:
    """The content of the `config.json` of an encoder."""
    return {
        "architectures": [CLASS], "model_type": "t5", "vocab_size": config.vocab_size, "d_model": config.d_model,
        "d_kv": config.head_dim, "d_ff": config.d_ff, "num_layers": config.num_layers,
        "num_decoder_layers": config.num_layers, "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.num_buckets, "relative_attention_max_distance": config.max_distance,
        "dropout_rate": 0.0, "layer_norm_epsilon": config.epsilon, "is_encoder_decoder": False, "use_cache": False,
        "feed_forward_proj": NAMES[config.activation, config.gated], "tie_word_embeddings": False,
        "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip


@functools.lru_cache(maxsize=64)
def structure(config: T5Config) -> Structure:
    """The structure of an encoder's parameters; nothing is allocated."""
    return stacked_structure(T5Encoder(config), config.num_layers)
