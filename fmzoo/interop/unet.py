"""U-Nets in the format of diffusers' `UNet2DConditionModel`: Stable Diffusion 1, 2, XL, and what is built like them."""

import dataclasses
from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.layouts import POINTWISE, TRANSPOSED
from fmzoo.interop.mapping import Row, Table, torch_convolution, torch_linear, torch_norm
from fmzoo.interop.structure import Place, Structure
from fmzoo.models.unet_accounting import unet_shapes
from fmzoo.models.unet_config import UNetConfig

CLASS = "UNet2DConditionModel"
MOST_LEVELS, MOST_LAYERS = 16, 100
DEFAULTS = {  # of attributes that a config.json may leave out
    "in_channels": 4, "out_channels": 4, "sample_size": 64, "flip_sin_to_cos": True, "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2, "dropout": 0.0, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5,
    "cross_attention_dim": 1280, "transformer_layers_per_block": 1, "attention_head_dim": 8,
    "use_linear_projection": False, "upcast_attention": False, "resnet_time_scale_shift": "default",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {  # attributes that would change the network, but for these values
    "_class_name": (CLASS,),
    "addition_embed_type_num_heads": (64,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "num_attention_heads": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
HARMLESS = (  # who wrote it, and how an average of the weights was taken
    "_diffusers_version", "_use_default_values", "decay", "inv_gamma", "min_decay", "optimization_step", "power",
    "update_after_step", "use_ema_warmup",
)  # fmt: skip
MIDDLES = {"UNetMidBlock2DCrossAttn": "attention", "UNetMidBlock2D": "plain", None: "none"}
DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}


def _rows(linear_projection: bool) -> tuple[Row, ...]:
    """Each row of a stack names one kind of part; the structure says where each such part is, here and there."""
    attention = {name: f"to_{name[0]}" for name in ("query", "key", "value")}
    outer = torch_linear if linear_projection else lambda a, b: torch_convolution(a, b, POINTWISE)
    rows = [
        *torch_convolution("input", "conv_in"),
        *torch_norm("output_norm", "conv_norm_out"),
        *torch_convolution("output", "conv_out"),
        Row("label", "class_embedding.weight"),
    ]
    for ours, theirs in {"time": "time_embedding", "added": "add_embedding"}.items():
        rows += torch_linear(f"{ours}/input", f"{theirs}.linear_1")
        rows += torch_linear(f"{ours}/output", f"{theirs}.linear_2")
    for norm in ("norm1", "norm2"):
        rows += torch_norm(f"resnets/{{i}}/{norm}", f"{{i}}.{norm}")
    for conv in ("conv1", "conv2"):
        rows += torch_convolution(f"resnets/{{i}}/{conv}", f"{{i}}.{conv}")
    rows += torch_linear("resnets/{i}/time", "{i}.time_emb_proj")
    rows += torch_convolution("resnets/{i}/shortcut", "{i}.conv_shortcut", POINTWISE)
    rows += torch_convolution("samplings/{i}", "{i}.conv")
    rows += torch_norm("transformers/{i}/norm", "{i}.norm")
    rows += (*outer("transformers/{i}/input", "{i}.proj_in"), *outer("transformers/{i}/output", "{i}.proj_out"))
    for ours, theirs in {"self": 1, "cross": 2, "mlp": 3}.items():
        rows += torch_norm(f"layers/{{i}}/{ours}_norm", f"{{i}}.norm{theirs}")
    for ours, theirs in {"self_attention": "attn1", "cross_attention": "attn2"}.items():
        rows += [
            Row(f"layers/{{i}}/{ours}/{a}/kernel", f"{{i}}.{theirs}.{b}.weight", TRANSPOSED)
            for a, b in attention.items()
        ]
        rows += torch_linear(f"layers/{{i}}/{ours}/out", f"{{i}}.{theirs}.to_out.0")
    rows += torch_linear("layers/{i}/mlp/up", "{i}.ff.net.0.proj")
    rows += torch_linear("layers/{i}/mlp/down", "{i}.ff.net.2")
    return tuple(rows)


TABLES = {linear: Table(_rows(linear)) for linear in (False, True)}


def unet_table(config: UNetConfig) -> Table:
    """The mapping of a U-Net's weights, which differs by how files hold its transformers' projections."""
    return TABLES[config.linear_projection]


def unet_structure(config: UNetConfig) -> Structure:
    """The structure of a U-Net's parameters, with its parts as stacks ``resnets``, ``transformers``, ``layers``, ..."""
    c, shapes, count = config, unet_shapes(config), len(config.channels)
    found: dict[str, list[tuple[str, str]]] = {"resnets": [], "transformers": [], "layers": [], "samplings": []}

    def add(ours: str, theirs: str, resnets: int, depth: int, transformers: int) -> None:
        found["resnets"].extend((f"{ours}/resnet_{j}", f"{theirs}.resnets.{j}") for j in range(resnets))
        for j in range(transformers if depth else 0):
            here, there = f"{ours}/transformer_{j}", f"{theirs}.attentions.{j}"
            found["transformers"].append((here, there))
            found["layers"].extend((f"{here}/layer_{k}", f"{there}.transformer_blocks.{k}") for k in range(depth))

    for i in range(count):
        number = count - 1 - i  # diffusers counts the levels going up from the coarsest
        add(f"down_{i}", f"down_blocks.{i}", c.layers[i], c.transformer_layers[i], c.layers[i])
        add(f"up_{i}", f"up_blocks.{number}", c.layers[i] + 1, c.up[i], c.layers[i] + 1)
        if i + 1 < count:
            found["samplings"].append((f"down_{i}/downsample", f"down_blocks.{i}.downsamplers.0"))
        if i > 0:
            found["samplings"].append((f"up_{i}/upsample", f"up_blocks.{number}.upsamplers.0"))
    if c.mid != "none":
        attends = c.mid == "attention"
        add("middle", "mid_block", 1 + attends, c.mid_transformer_layers * attends, 1)
    places = {stack: [Place(ours) for ours, _ in parts] for stack, parts in found.items()}
    return Structure(shapes, places, {stack: [theirs for _, theirs in parts] for stack, parts in found.items()})


def read_unet(values: dict[str, Any], source: str = "config.json") -> UNetConfig:
    """The config that the content of diffusers' `config.json` stands for.

    Raises:
      InputError: an attribute is unknown, or a value cannot be.
    """
    a = Attributes({k: v for k, v in values.items() if k not in HARMLESS}, DEFAULTS, source)
    for name, accepted in NEUTRAL.items():
        a.demand(name, *accepted)
    config = UNetConfig(
        in_channels=a.integer("in_channels"),
        out_channels=a.integer("out_channels"),
        sample_size=_sample_size(a),
        **_levels(a),
        groups=a.integer("norm_num_groups"),
        epsilon=a.number("norm_eps", above=0),
        activation=a.one_of("act_fn", {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu"}),
        scale_shift=a.one_of("resnet_time_scale_shift", {"default": False, "scale_shift": True}),
        time_dim=a.integer("time_embedding_dim", optional=True),
        sines_first=not a.take("flip_sin_to_cos", bool),
        frequency_shift=a.number("freq_shift"),
        num_classes=a.integer("num_class_embeds", optional=True),
        **_added(a),
        linear_projection=a.take("use_linear_projection", bool),
        upcast_attention=a.take("upcast_attention", bool),
        dropout=a.number("dropout"),
    )
    a.close()
    return config if config.attends else dataclasses.replace(config, context_dim=None)


def _levels(a: Attributes) -> dict[str, Any]:
    """The fields that have a number for each level, and those of the middle."""
    channels = a.take("block_out_channels", list)
    if not 1 <= len(channels) <= MOST_LEVELS:
        raise a.refuse("block_out_channels", channels, f"a list of 1 to {MOST_LEVELS} numbers")
    count = len(channels)
    depths = _numbers(a, "transformer_layers_per_block", count)
    up_depths = depths[::-1]
    if a.take("reverse_transformer_layers_per_block", list, optional=True) is not None:
        up_depths = _numbers(a, "reverse_transformer_layers_per_block", count)
    down = [d * has for d, has in zip(depths, _kinds(a, "down_block_types", DOWN, count), strict=True)]
    up = [d * has for d, has in zip(up_depths, _kinds(a, "up_block_types", UP, count), strict=True)]
    mid = a.take("mid_block_type", str, optional=True)
    if mid not in MIDDLES:
        raise a.refuse("mid_block_type", mid, " or ".join(map(str, MIDDLES)))
    contexts = set(_numbers(a, "cross_attention_dim", count))
    if len(contexts) > 1:
        raise a.refuse("cross_attention_dim", contexts, "one number for all levels")
    return {
        "channels": _numbers(a, "block_out_channels", count),
        "layers": _numbers(a, "layers_per_block", count),
        "transformer_layers": tuple(down),
        "up_transformer_layers": None if up == down[::-1] else tuple(up[::-1]),
        "mid": MIDDLES[mid],
        "mid_transformer_layers": depths[-1],
        "num_heads": _numbers(a, "attention_head_dim", count),  # misnamed there: the number of heads
        "context_dim": contexts.pop(),
    }


def _numbers(a: Attributes, name: str, count: int) -> tuple[int, ...]:
    """A number for each level, or one for all."""
    value = a.take(name, int, list)
    numbers = [value] * count if isinstance(value, int) else list(value)
    fits = len(numbers) == count and all(type(n) is int and 1 <= n < 2**20 for n in numbers)
    if not fits or ("layers" in name and max(numbers) > MOST_LAYERS):
        raise a.refuse(name, value, f"a number above 0, or {count} of them")
    return tuple(numbers)


def _kinds(a: Attributes, name: str, kinds: dict[str, bool], count: int) -> list[bool]:
    value = a.take(name, list)
    if len(value) != count or any(kind not in list(kinds) for kind in value):
        raise a.refuse(name, value, f"{count} of {' or '.join(kinds)}")
    return [kinds[kind] for kind in value]


def _sample_size(a: Attributes) -> int:
    value = a.take("sample_size", int, list)
    if not isinstance(value, int):  # older files hold rows and columns
        if len(set(value)) != 1 or type(value[0]) is not int:
            raise a.refuse("sample_size", value, "one number for rows and columns")
        return value[0]
    return value


def _added(a: Attributes) -> dict[str, Any]:
    """The fields of `text_time` conditioning, which the refiner and base model of SDXL have."""
    kind = a.take("addition_embed_type", str, optional=True)
    width = a.integer("addition_time_embed_dim", optional=True)
    total = a.integer("projection_class_embeddings_input_dim", optional=True)
    if kind is None:
        return {}
    if kind != "text_time" or width is None or total is None:
        accepted = "text_time with addition_time_embed_dim and projection_class_embeddings_input_dim"
        raise a.refuse("addition_embed_type", (kind, width, total), accepted)
    return {"added_dim": total, "added_number_dim": width}


def write_unet(config: UNetConfig) -> dict[str, Any]:
    """The content of `config.json` for diffusers.

    Raises:
      InputError: diffusers has no such network.
    """
    c = config
    depths = [d or u or 1 for d, u in zip(c.transformer_layers, c.up, strict=True)]
    depths[-1] = c.mid_transformer_layers if c.mid == "attention" else depths[-1]
    up_depths = [u or d for u, d in zip(c.up, depths, strict=True)]
    attributes = {
        "_class_name": CLASS,
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "sample_size": c.sample_size,
        "block_out_channels": list(c.channels),
        "layers_per_block": c.layers[0] if len({*c.layers}) == 1 else list(c.layers),  # a number, as published
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in c.transformer_layers],
        "mid_block_type": {name: mid for mid, name in MIDDLES.items()}[c.mid],
        "up_block_types": ["CrossAttnUpBlock2D" if u else "UpBlock2D" for u in reversed(c.up)],
        "transformer_layers_per_block": depths,
        "reverse_transformer_layers_per_block": None if up_depths == depths else up_depths[::-1],
        "attention_head_dim": list(c.num_heads),
        "cross_attention_dim": c.context_dim if c.context_dim is not None else DEFAULTS["cross_attention_dim"],
        "norm_num_groups": c.groups,
        "norm_eps": c.epsilon,
        "act_fn": c.activation,
        "resnet_time_scale_shift": "scale_shift" if c.scale_shift else "default",
        "time_embedding_dim": c.time_dim,
        "flip_sin_to_cos": not c.sines_first,
        "freq_shift": c.frequency_shift,
        "num_class_embeds": c.num_classes,
        "addition_embed_type": None if c.added_dim is None else "text_time",
        "addition_time_embed_dim": None if c.added_dim is None else c.added_number_dim,
        "projection_class_embeddings_input_dim": c.added_dim,
        "use_linear_projection": c.linear_projection,
        "upcast_attention": c.upcast_attention,
        "dropout": c.dropout,
    }
    if lost := _differences(c, read_unet(attributes)):
        raise InputError(f"diffusers has no U-Net with this config: {', '.join(lost)} would be lost")
    return attributes


def _differences(one: UNetConfig, other: UNetConfig) -> list[str]:
    """The fields in which two configs differ, but for how they are computed."""
    computed = {"dtype", "remat", "attention", "transposed_inputs"}
    unused = set() if one.mid == "attention" else {"mid_transformer_layers"}
    one, other = (dataclasses.replace(c, up_transformer_layers=c.up) for c in (one, other))
    names = [field.name for field in dataclasses.fields(one) if field.name not in computed | unused]
    if not one.attends:
        names = [name for name in names if name not in ("num_heads", "context_dim", "upcast_attention")]
    return [name for name in names if getattr(one, name) != getattr(other, name)]
