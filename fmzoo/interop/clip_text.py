"""CLIP's text tower in the format of transformers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import MOST_LAYERS
from fmzoo.interop.layouts import TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_linear
from fmzoo.interop.structure import Place, Structure
from fmzoo.models.clip_text import ClipText, ClipTextConfig

CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")  # of transformers, without and with a projection
DEFAULTS = {
    "vocab_size": 49_408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "eos_token_id": 49_407,
}  # fmt: skip
LEGACY_EOS = 2  # an eos_token_id that was wrong in CLIP's first configs and means: pool at the largest id


def _rows() -> tuple[Row, ...]:
    ours, theirs = "layers/{i}", "text_model.encoder.layers.{i}"
    norms = {f"{ours}/attention_norm": f"{theirs}.layer_norm1", f"{ours}/mlp_norm": f"{theirs}.layer_norm2"}
    norms["final_norm"] = "text_model.final_layer_norm"
    linear = {f"attention/{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")}
    linear |= {"attention/out": "self_attn.out_proj", "mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"}
    return (
        Row("embed", "text_model.embeddings.token_embedding.weight"),
        Row("position_embed", "text_model.embeddings.position_embedding.weight"),
        *(Row(f"{a}/{p}", f"{b}.{q}") for a, b in norms.items() for p, q in (("scale", "weight"), ("bias", "bias"))),
        *(row for a, b in linear.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")),
        Row("projection/kernel", "text_projection.weight", TRANSPOSED),
    )


TABLE = Table(
    _rows(),
    renames=tuple((start, f"text_model.{start}") for start in ("embeddings.", "encoder.", "final_layer_norm.")),
    ignored=("text_model.embeddings.position_ids",),
)


def read_config(values: dict[str, Any], source: str = "config.json") -> ClipTextConfig:
    """The config that the content of a `config.json` of CLIP's text tower stands for.

    Whether the pooled output is projected is said by the class under ``architectures``, not by ``projection_dim``.

    Raises:
      InputError: an attribute is unknown or has a value that cannot be.
    """
    a = Attributes({"use_attention_mask": False} | values, DEFAULTS, source)
    a.demand("use_attention_mask", False)
    for name in ("attention_dropout", "dropout", "initializer_factor"):  # of training
        a.take(name, float, optional=True)
    width, heads = a.integer("hidden_size"), a.integer("num_attention_heads")
    if width % heads:
        raise a.refuse("hidden_size", width, f"a multiple of num_attention_heads {heads}")
    projection, eos = a.integer("projection_dim", optional=True), a.integer("eos_token_id", least=0)
    config = ClipTextConfig(
        vocab_size=a.integer("vocab_size"),
        d_model=width,
        num_layers=a.integer("num_hidden_layers", most=MOST_LAYERS),
        num_heads=heads,
        d_ff=a.integer("intermediate_size"),
        context_length=a.integer("max_position_embeddings"),
        activation=a.one_of("hidden_act", {"quick_gelu": "quick_gelu", "gelu": "gelu"}),
        epsilon=a.number("layer_norm_eps", above=0),
        projection=projection if values.get("architectures") == [CLASSES[1]] else None,
        eos_id=None if eos == LEGACY_EOS else eos,
    )
    a.close()
    return config


def write_config(config: ClipTextConfig) -> dict[str, Any]:
    """The content of the `config.json` of a text tower.

    Raises:
      InputError: the end of text is an id that transformers takes for another rule.
    """
    if config.eos_id == LEGACY_EOS:
        raise InputError(f"eos_id is {LEGACY_EOS}, which transformers takes for the largest id; another id is needed")
    return {
        "architectures": [CLASSES[config.projection is not None]], "model_type": "clip_text_model",
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "intermediate_size": config.d_ff,
        "projection_dim": config.projection or config.d_model, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "max_position_embeddings": config.context_length,
        "hidden_act": config.activation, "layer_norm_eps": config.epsilon, "attention_dropout": 0.0,
        "eos_token_id": LEGACY_EOS if config.eos_id is None else config.eos_id, "bos_token_id": 0, "pad_token_id": 1,
    }  # fmt: skip


@functools.lru_cache(maxsize=64)
def structure(config: ClipTextConfig) -> Structure:
    """The structure of a text tower's parameters; nothing is allocated."""
    return stacked_structure(ClipText(config), config.num_layers)


def stacked_structure(module: Any, num_layers: int) -> Structure:
    """The structure of an encoder of tokens whose layers are stacked under ``layers``."""
    init = functools.partial(module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    shapes = {path: leaf.shape for path, leaf in flatten_dict(jax.eval_shape(init)["params"], sep="/").items()}
    return Structure(shapes, {"layers": [Place("layers", i) for i in range(num_layers)]})
