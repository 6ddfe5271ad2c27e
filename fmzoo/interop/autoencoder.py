"""The latent autoencoder in the format of diffusers (AutoencoderKL)."""

import functools
from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.layouts import POINTWISE
from fmzoo.interop.mapping import Row, Table, torch_convolution, torch_linear, torch_norm
from fmzoo.interop.structure import Structure
from fmzoo.models.autoencoder import AutoencoderConfig
from fmzoo.models.image_accounting import image_model_shapes

CLASS = "AutoencoderKL"
DEFAULTS = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": [64], "layers_per_block": 1, "act_fn": "silu",
    "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215, "force_upcast": True,
    "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True,
    "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
}  # fmt: skip
MOST_LEVELS = 8
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.12


@functools.lru_cache(maxsize=64)
def table(config: AutoencoderConfig) -> Table:
    """The mapping of the weights of an autoencoder of these sizes."""
    rows = [*torch_convolution("quant_conv", "quant_conv"), *torch_convolution("post_quant_conv", "post_quant_conv")]
    for part, way in (("encoder", "down"), ("decoder", "up")):
        rows += [*torch_convolution(f"{part}/conv_in", f"{part}.conv_in"), *_middle(part)]
        for i in range(len(config.channels)):
            theirs = f"{part}.{way}_blocks.{i if way == 'down' else len(config.channels) - 1 - i}"
            for j in range(config.layers_per_block + (way == "up")):
                rows += _residual(f"{part}/level_{i}_block_{j}", f"{theirs}.resnets.{j}")
            rows += torch_convolution(f"{part}/level_{i}_{way}", f"{theirs}.{way}samplers.0.conv")
        rows += torch_norm(f"{part}/out/norm", f"{part}.conv_norm_out")
        rows += torch_convolution(f"{part}/out/conv", f"{part}.conv_out")
    attention = [f"{part}.mid_block.attentions.0" for part in ("encoder", "decoder")]
    renames = tuple((f"{a}.{old}.", f"{a}.{new}.") for a in attention for old, new in OLD_NAMES.items())
    return Table(tuple(rows), renames=renames)


def _residual(ours: str, theirs: str) -> list[Row]:
    rows = [*torch_convolution(f"{ours}/shortcut", f"{theirs}.conv_shortcut", POINTWISE)]
    for i in (1, 2):
        rows += torch_norm(f"{ours}/norm{i}", f"{theirs}.norm{i}")
        rows += torch_convolution(f"{ours}/conv{i}", f"{theirs}.conv{i}")
    return rows


def _middle(part: str) -> list[Row]:
    ours, theirs = f"{part}/middle/attention", f"{part}.mid_block.attentions.0"
    rows = [*torch_norm(f"{ours}/norm", f"{theirs}.group_norm"), *torch_linear(f"{ours}/out", f"{theirs}.to_out.0")]
    for name in ("query", "key", "value"):
        rows += torch_linear(f"{ours}/{name}", f"{theirs}.to_{name[0]}")
    for i in (0, 1):
        rows += _residual(f"{part}/middle/block_{i}", f"{part}.mid_block.resnets.{i}")
    return rows


def read_config(values: dict[str, Any], source: str = "config.json") -> AutoencoderConfig:
    """The config that the content of a `config.json` of AutoencoderKL stands for.

    Raises:
      InputError: an attribute is unknown, or a value cannot be.
    """
    a = Attributes(values, DEFAULTS, source)
    a.demand("_class_name", CLASS)
    a.demand("latents_mean", None)
    a.demand("latents_std", None)
    for name in ("_diffusers_version", "sample_size"):  # the size matters only for cutting a picture into tiles
        a.take(name, str, int, list, optional=True)
    channels = _channels(a)
    if (images := a.integer("in_channels")) != a.integer("out_channels"):
        raise a.refuse("out_channels", values["out_channels"], f"in_channels {images}")
    for name, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if (types := a.take(name, list)) != [block] * len(channels):
            raise a.refuse(name, types, f"{block} for each of block_out_channels")
    a.one_of("act_fn", {"silu": "silu", "swish": "silu"})
    config = AutoencoderConfig(
        image_channels=images,
        latent_channels=a.integer("latent_channels"),
        channels=channels,
        layers_per_block=a.integer("layers_per_block", most=MOST_LEVELS),
        norm_groups=a.integer("norm_num_groups"),
        mid_attention=a.take("mid_block_add_attention", bool),
        quant_conv=a.take("use_quant_conv", bool),
        post_quant_conv=a.take("use_post_quant_conv", bool),
        scaling_factor=a.number("scaling_factor", above=0),
        shift_factor=a.number("shift_factor", optional=True) or 0.0,
        upcast=a.take("force_upcast", bool),
    )
    a.close()
    return config


def _channels(a: Attributes) -> tuple[int, ...]:
    channels = a.take("block_out_channels", list)
    if not 1 <= len(channels) <= MOST_LEVELS or any(type(n) is not int or n < 1 for n in channels):
        raise a.refuse("block_out_channels", channels, f"1 to {MOST_LEVELS} whole numbers above 0")
    return tuple(channels)


def write_config(config: AutoencoderConfig) -> dict[str, Any]:
    """The content of the `config.json` of an autoencoder.

    Raises:
      InputError: diffusers has no such autoencoder.
    """
    c, levels = config, len(config.channels)
    if c.epsilon != 1e-6:
        raise InputError(f"epsilon is {c.epsilon}; 1e-06 is needed to be an {CLASS} of diffusers")
    return {
        "_class_name": CLASS, "in_channels": c.image_channels, "out_channels": c.image_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(c.channels), "layers_per_block": c.layers_per_block, "act_fn": "silu",
        "latent_channels": c.latent_channels, "norm_num_groups": c.norm_groups, "sample_size": 64 * c.factor,
        "scaling_factor": c.scaling_factor, "shift_factor": c.shift_factor or None, "force_upcast": c.upcast,
        "use_quant_conv": c.quant_conv, "use_post_quant_conv": c.post_quant_conv,
        "mid_block_add_attention": c.mid_attention,
    }  # fmt: skip


def structure(config: AutoencoderConfig) -> Structure:
    """The structure of an autoencoder's parameters; nothing is allocated."""
    return Structure(image_model_shapes(config), {})
