"""MMDiT in the format of diffusers (SD3Transformer2DModel): Stable Diffusion 3 and 3.5."""

import functools
from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.dit import patches
from fmzoo.interop.family import MOST_LAYERS
from fmzoo.interop.layouts import Array, Layout, Shape
from fmzoo.interop.mapping import Row, Table, torch_linear
from fmzoo.interop.structure import Place, Structure
from fmzoo.models.image_accounting import image_model_shapes
from fmzoo.models.mmdit import MMDiTConfig

CLASS = "SD3Transformer2DModel"
DEFAULTS = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 18, "attention_head_dim": 64,
    "num_attention_heads": 18, "joint_attention_dim": 4096, "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 96, "dual_attention_layers": [],
}  # fmt: skip
STREAMS = {"image": ("to_{}", "norm_{}"), "context": ("add_{}_proj", "norm_added_{}")}


def _swap(x: Array) -> Array:
    """The two halves of the first axis in the other order."""
    half = x.shape[0] // 2
    return x.__array_namespace__().concat([x[half:], x[:half]], axis=0)


def _swapped(theirs: list[Array], shapes: list[Shape] | None = None) -> list[Array]:
    return [_swap(x) for x in theirs]


SWAPPED = Layout(_swapped, _swapped)  # shift, then scale here; scale, then shift there
SWAPPED_TRANSPOSED = Layout(
    lambda theirs, shapes: [_swap(x).T for x in theirs], lambda ours: [_swap(x.T) for x in ours]
)
POSITIONS = Layout(
    lambda theirs, shapes: [x.reshape(shape) for x, shape in zip(theirs, shapes, strict=True)],
    lambda ours: [x.reshape(1, -1, x.shape[-1]) for x in ours],
)


def _swapped_linear(ours: str, theirs: str) -> tuple[Row, Row]:
    return (
        Row(f"{ours}/kernel", f"{theirs}.weight", SWAPPED_TRANSPOSED),
        Row(f"{ours}/bias", f"{theirs}.bias", SWAPPED),
    )


def _block() -> list[Row]:
    """The rows of a layer, of whichever kind, but for how its context is changed before."""
    ours, theirs = "blocks/{i}", "transformer_blocks.{i}"
    linear = {"image_modulation/projection": "norm1.linear", "image_attention/out": "attn2.to_out.0"}
    linear |= {"attention/image_out": "attn.to_out.0", "attention/context_out": "attn.to_add_out"}
    norms = {}
    for stream, (projection, norm) in STREAMS.items():
        feed = "ff" if stream == "image" else "ff_context"
        linear |= {f"{stream}_mlp/up": f"{feed}.net.0.proj", f"{stream}_mlp/down": f"{feed}.net.2"}
        for name in ("query", "key", "value"):
            linear[f"attention/{stream}/{name}"] = "attn." + projection.format(name[0])
            norms[f"attention/{stream}/{name}_norm"] = "attn." + norm.format(name[0])
    for name in ("query", "key", "value"):
        linear[f"image_attention/{name}"] = f"attn2.to_{name[0]}"
        norms[f"image_attention/{name}_norm"] = f"attn2.norm_{name[0]}"
    rows = [row for a, b in linear.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")]
    return rows + [Row(f"{ours}/{a}/scale", f"{theirs}.{b}.weight") for a, b in norms.items() if "value" not in a]


@functools.lru_cache(maxsize=64)
def table(config: MMDiTConfig) -> Table:
    """The mapping of the weights of an MMDiT of these sizes."""
    linear = {"context": "context_embedder", "head": "proj_out"}
    for ours, theirs in (("time", "timestep_embedder"), ("pooled", "text_embedder")):
        linear |= {f"{ours}/{a}": f"time_text_embed.{theirs}.linear_{i}" for i, a in ((1, "input"), (2, "output"))}
    context, last = "context_modulation/projection", config.num_layers - 1
    rows = [
        Row("patch/kernel", "pos_embed.proj.weight", patches(config.patch_size)),
        Row("patch/bias", "pos_embed.proj.bias"),
        Row("position/bias", "pos_embed.pos_embed", POSITIONS),
        *(row for a, b in linear.items() for row in torch_linear(a, b)),
        *_swapped_linear("final_modulation/projection", "norm_out.linear"),
        *_block(),
        *torch_linear(f"whole/{{i}}/{context}", "transformer_blocks.{i}.norm1_context.linear"),
        *_swapped_linear(f"closing/{{i}}/{context}", f"transformer_blocks.{last}.norm1_context.linear"),
    ]
    return Table(tuple(rows))


def read_config(values: dict[str, Any], source: str = "config.json") -> MMDiTConfig:
    """The config that the content of a `config.json` of SD3Transformer2DModel stands for.

    Raises:
      InputError: an attribute is unknown, or a value cannot be.
    """
    a = Attributes(values, DEFAULTS, source)
    a.demand("_class_name", CLASS)
    a.take("_diffusers_version", str, optional=True)
    dual = a.take("dual_attention_layers", list)
    if dual != list(range(len(dual))):
        raise a.refuse("dual_attention_layers", dual, "a list 0, 1, 2 and so on")
    if (norm := a.take("qk_norm", str, optional=True)) not in (None, "rms_norm"):
        raise a.refuse("qk_norm", norm, "rms_norm or null")
    channels = a.integer("in_channels")
    config = MMDiTConfig(
        sample_size=a.integer("sample_size"),
        patch_size=a.integer("patch_size"),
        in_channels=channels,
        out_channels=a.integer("out_channels", optional=True) or channels,
        num_layers=a.integer("num_layers", most=MOST_LAYERS),
        num_dual_layers=len(dual),
        num_heads=a.integer("num_attention_heads"),
        head_dim=a.integer("attention_head_dim"),
        context_features=a.integer("joint_attention_dim"),
        pooled_features=a.integer("pooled_projection_dim"),
        max_grid=a.integer("pos_embed_max_size"),
        qk_norm=norm is not None,
    )
    if (width := a.integer("caption_projection_dim")) != config.width:
        raise a.refuse("caption_projection_dim", width, f"the width of a token, {config.width},")
    a.close()
    return config


def write_config(config: MMDiTConfig) -> dict[str, Any]:
    """The content of the `config.json` of an MMDiT.

    Raises:
      InputError: diffusers' SD3 transformer computes something else.
    """
    c = config
    if c.epsilon != 1e-6:
        raise InputError(f"epsilon is {c.epsilon}; 1e-06 is needed to be an {CLASS} of diffusers")
    return {
        "_class_name": CLASS, "sample_size": c.sample_size, "patch_size": c.patch_size, "in_channels": c.in_channels,
        "num_layers": c.num_layers, "attention_head_dim": c.head_dim, "num_attention_heads": c.num_heads,
        "joint_attention_dim": c.context_features, "caption_projection_dim": c.width,
        "pooled_projection_dim": c.pooled_features, "out_channels": c.out_channels,
        "pos_embed_max_size": c.max_grid, "dual_attention_layers": list(range(c.num_dual_layers)),
        "qk_norm": "rms_norm" if c.qk_norm else None,
    }  # fmt: skip


def structure(config: MMDiTConfig) -> Structure:
    """The structure of an MMDiT's parameters: layers are ``blocks``, all but the last ``whole``, that ``closing``.

    Nothing is allocated.
    """
    blocks = [Place(kind, i) for kind, count in config.stacks.items() for i in range(count)]
    stacks = {"blocks": blocks, "whole": blocks[:-1], "closing": blocks[-1:]}
    return Structure(image_model_shapes(config), stacks)
