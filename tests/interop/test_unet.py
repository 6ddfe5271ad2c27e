"""Diffusers' U-Nets without diffusers: published configs, names of weights, what is refused."""

import dataclasses

import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.interop.mapping import to_ours, to_theirs
from fmzoo.interop.unet import read_unet, unet_structure, unet_table, write_unet
from fmzoo.models.unet_config import (
    STABLE_DIFFUSION_1,
    STABLE_DIFFUSION_1_INPAINTING,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
)
from tests.models.test_unet import TINY, random_like

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
SD1 = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": [CROSS.format("Down")] * 3 + [PLAIN.format("Down")], "downsample_padding": 1,
    "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": [PLAIN.format("Up")] + [CROSS.format("Up")] * 3,
}  # fmt: skip
SD2 = {
    "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True,
    "dual_cross_attention": False, "num_class_embeds": None, "only_cross_attention": False,
}  # fmt: skip
XL = SD2 | {
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": [PLAIN.format("Down")] + [CROSS.format("Down")] * 2, "sample_size": 128,
    "up_block_types": [CROSS.format("Up")] * 2 + [PLAIN.format("Up")], "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256, "class_embed_type": None,
    "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": [1, 2, 10],
    "mid_block_type": "UNetMidBlock2DCrossAttn", "resnet_time_scale_shift": "default", "upcast_attention": None,
}  # fmt: skip
REFINER = XL | {
    "attention_head_dim": [6, 12, 24, 24], "block_out_channels": [384, 768, 1536, 1536], "cross_attention_dim": 1280,
    "down_block_types": [PLAIN.format("Down")] + [CROSS.format("Down")] * 2 + [PLAIN.format("Down")],
    "up_block_types": [PLAIN.format("Up")] + [CROSS.format("Up")] * 2 + [PLAIN.format("Up")],
    "projection_class_embeddings_input_dim": 2560, "transformer_layers_per_block": 4,
}  # fmt: skip
PUBLISHED = {
    "1": (SD1, STABLE_DIFFUSION_1),
    "1-inpainting": (SD1 | {"in_channels": 9}, STABLE_DIFFUSION_1_INPAINTING),
    "2": (SD1 | SD2, STABLE_DIFFUSION_2),
    "XL": (SD1 | XL, STABLE_DIFFUSION_XL),
    "XL-refiner": (SD1 | REFINER, STABLE_DIFFUSION_XL_REFINER),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_the_named_sizes(name):
    attributes, config = PUBLISHED[name]
    assert read_unet(attributes) == config
    assert read_unet(write_unet(config)) == config


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, linear_projection=True, mid="plain")])
def test_weights_go_there_and_back(config):
    structure, table = unet_structure(config), unet_table(config)
    params = random_like(structure.shapes)
    tensors = to_theirs(table, structure, params)
    back = to_theirs(table, structure, to_ours(table, structure, tensors))
    assert len(tensors) == len(structure.shapes)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    query = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    ours = params["down_0"]["transformer_0"]["layer_0"]["self_attention"]["query"]["kernel"]
    np.testing.assert_array_equal(tensors[query], ours.T)
    assert tensors["down_blocks.0.attentions.0.proj_in.weight"].shape[2:] == (
        () if config.linear_projection else (1, 1)
    )
    assert tensors["up_blocks.0.resnets.0.conv1.weight"].shape == (12, 24, 3, 3)  # out, in: diffusers counts from below
    del tensors["conv_out.bias"]
    with pytest.raises(InputError, match="conv_out.bias"):
        to_ours(table, structure, tensors)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_embed_type", "projection"),
        ("only_cross_attention", [True, True, True, False]),
        ("down_block_types", ["AttnDownBlock2D"] * 4),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("transformer_layers_per_block", [[1, 1], [1, 2], 1, 1]),
        ("block_out_channels", []),
        ("layers_per_block", 10**6),
        ("cross_attention_dim", [1, 2, 3, 4]),
        ("addition_embed_type", "image"),
        ("new_option", 3),
    ],
)
def test_networks_that_are_not_known_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        read_unet(SD1 | {name: value})


def test_what_diffusers_cannot_hold_is_not_written():
    with pytest.raises(InputError, match="mid_transformer_layers|transformer_layers"):
        write_unet(dataclasses.replace(TINY, transformer_layers=(1, 1), mid_transformer_layers=2))
    with pytest.raises(InputError, match="context_dim"):
        write_unet(dataclasses.replace(TINY, context_dim=None))
