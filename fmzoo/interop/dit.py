"""DiT in the format of diffusers (DiTTransformer2DModel, or Transformer2DModel as DiT's folders first had it)."""

import functools
from typing import Any

import numpy as np

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import MOST_LAYERS
from fmzoo.interop.layouts import Array, Layout, Shape
from fmzoo.interop.mapping import Row, Table, torch_linear
from fmzoo.interop.structure import Place, Structure
from fmzoo.models.dit import DiTConfig
from fmzoo.models.image_accounting import image_model_shapes

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
DEFAULTS = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "num_layers": 28, "sample_size": 32,
    "patch_size": 2, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero",
    "attention_bias": True, "norm_elementwise_affine": False, "norm_eps": 1e-5, "upcast_attention": False,
    "dropout": 0.0,
}  # fmt: skip
OLD_DEFAULTS = {"norm_elementwise_affine": True, "norm_type": "layer_norm", "activation_fn": "geglu"}
OLD_DEFAULTS |= {"attention_bias": False}  # of Transformer2DModel, where it differs
# Attributes of Transformer2DModel that DiT has no use for, with the values at which they do nothing.
UNUSED: dict[str, tuple[Any, ...]] = {
    "attention_type": ("default",), "caption_channels": (None,), "cross_attention_dim": (None,),
    "double_self_attention": (False,), "interpolation_scale": (None, 1, 1.0), "num_vector_embeds": (None,),
    "only_cross_attention": (False,), "use_additional_conditions": (None, False), "use_linear_projection": (False,),
}  # fmt: skip
FREQUENCY_SHIFT = 1.0  # of the time's waves in diffusers; the published network has 0


def patches(size: int) -> Layout:
    """A kernel over squares of pixels in reading order here, a convolution of that stride there."""

    def to_ours(theirs: list[Array], shapes: list[Shape]) -> list[Array]:
        return [x.transpose(2, 3, 1, 0).reshape(shape) for x, shape in zip(theirs, shapes, strict=True)]

    def to_theirs(ours: list[Array]) -> list[Array]:
        return [x.reshape(size, size, -1, x.shape[-1]).transpose(3, 2, 0, 1) for x in ours]

    return Layout(to_ours, to_theirs)


def repeated(count: int, transposed: bool) -> Layout:
    """One array here that they hold ``count`` times, always the same."""

    def to_ours(theirs: list[Array], shapes: list[Shape]) -> list[Array]:
        if any(not np.array_equal(theirs[0], other) for other in theirs[1:]):
            raise InputError("embeddings of time or class differ from block to block; one for all blocks is needed")
        return [theirs[0].T if transposed else theirs[0]]

    def to_theirs(ours: list[Array]) -> list[Array]:
        return [ours[0].T if transposed else ours[0]] * count

    return Layout(to_ours, to_theirs)


@functools.lru_cache(maxsize=64)
def table(config: DiTConfig) -> Table:
    """The mapping of the weights of a DiT of these sizes; each of its blocks there holds the embeddings again."""
    ours, theirs, count = "blocks/{i}", "transformer_blocks.{i}", config.num_layers
    linear = {f"attention/{name}": f"attn1.to_{name[0]}" for name in ("query", "key", "value")}
    linear |= {"attention/out": "attn1.to_out.0", "mlp/up": "ff.net.0.proj", "mlp/down": "ff.net.2"}
    linear["modulation/projection"] = "norm1.linear"
    embedding = {f"time/{a}": f"timestep_embedder.linear_{i}" for i, a in ((1, "input"), (2, "output"))}

    def each(name: str) -> tuple[str, ...]:
        return tuple(f"transformer_blocks.{i}.norm1.emb.{name}" for i in range(count))

    transposed, as_is = repeated(count, True), repeated(count, False)
    rows = [row for a, b in linear.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")]
    for a, b in embedding.items():
        rows += [Row(f"{a}/kernel", each(f"{b}.weight"), transposed), Row(f"{a}/bias", each(f"{b}.bias"), as_is)]
    rows.append(Row("label_embed", each("class_embedder.embedding_table.weight"), as_is))
    rows += [Row("patch/kernel", "pos_embed.proj.weight", patches(config.patch_size))]
    rows += [Row("patch/bias", "pos_embed.proj.bias")]
    rows += [*torch_linear("final_modulation/projection", "proj_out_1"), *torch_linear("head", "proj_out_2")]
    return Table(tuple(rows), ignored=("pos_embed.pos_embed",))  # which diffusers computes, and older files hold


def read_config(values: dict[str, Any], source: str = "config.json") -> DiTConfig:
    """The config that the content of a `config.json` of DiT stands for.

    Raises:
      InputError: an attribute is unknown, or a value cannot be.
    """
    old = values.get("_class_name") == CLASSES[1]
    a = Attributes(values, DEFAULTS | (OLD_DEFAULTS if old else {}), source)
    a.demand("_class_name", *CLASSES)
    a.take("_diffusers_version", str, optional=True)
    a.integer("norm_num_groups", optional=True)  # of a norm that DiT does not have
    for name, accepted in UNUSED.items():
        a.demand(name, *accepted)
    needed = {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate", "attention_bias": True}
    needed |= {"norm_elementwise_affine": False, "upcast_attention": False, "dropout": 0.0}
    for name, value in needed.items():
        if (found := a.take(name, type(value))) != value:
            raise a.refuse(name, found, repr(value))
    channels = a.integer("in_channels")
    config = DiTConfig(
        sample_size=a.integer("sample_size"),
        patch_size=a.integer("patch_size"),
        in_channels=channels,
        out_channels=a.integer("out_channels", optional=True) or channels,
        num_layers=a.integer("num_layers", most=MOST_LAYERS),
        num_heads=a.integer("num_attention_heads"),
        head_dim=a.integer("attention_head_dim"),
        num_classes=a.integer("num_embeds_ada_norm"),
        mlp_epsilon=a.number("norm_eps", above=0),
        frequency_shift=FREQUENCY_SHIFT,
    )
    a.close()
    return config


def write_config(config: DiTConfig) -> dict[str, Any]:
    """The content of the `config.json` of a DiT.

    Raises:
      InputError: diffusers' DiT computes something else.
    """
    c = config
    for name, needed in (("epsilon", 1e-6), ("frequency_shift", FREQUENCY_SHIFT)):
        if getattr(c, name) != needed:
            raise InputError(f"{name} is {getattr(c, name)}; {needed} is needed to be a {CLASSES[0]} of diffusers")
    return {
        "_class_name": CLASSES[0], "num_attention_heads": c.num_heads, "attention_head_dim": c.head_dim,
        "in_channels": c.in_channels, "out_channels": c.out_channels, "num_layers": c.num_layers, "dropout": 0.0,
        "norm_num_groups": 32, "attention_bias": True, "sample_size": c.sample_size, "patch_size": c.patch_size,
        "activation_fn": "gelu-approximate", "num_embeds_ada_norm": c.num_classes, "upcast_attention": False,
        "norm_type": "ada_norm_zero", "norm_elementwise_affine": False, "norm_eps": c.mlp_epsilon,
    }  # fmt: skip


def structure(config: DiTConfig) -> Structure:
    """The structure of a DiT's parameters; nothing is allocated."""
    return Structure(image_model_shapes(config), {"blocks": [Place("blocks", i) for i in range(config.num_layers)]})
