"""Configs of the autoencoder, DiT and MMDiT in diffusers' format: read as written, refused where they cannot be."""

import dataclasses

import jax
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.interop import autoencoder, dit, mmdit, to_ours, to_theirs
from fmzoo.models import autoencoder as autoencoders
from fmzoo.models import dit as dits
from fmzoo.models import mmdit as mmdits
from tests.models.test_dit import DIT, MMDIT, random_params

PUBLISHED = dits.DiTConfig(mlp_epsilon=1e-5, frequency_shift=1.0)  # as diffusers has it
OURS = {
    "sd": (autoencoder, autoencoders.SD_AUTOENCODER),
    "sdxl": (autoencoder, autoencoders.SDXL_AUTOENCODER),
    "sd3": (autoencoder, autoencoders.SD3_AUTOENCODER),
    "flux": (autoencoder, autoencoders.FLUX_AUTOENCODER),
    "dit": (dit, PUBLISHED),
    "sd3-medium": (mmdit, mmdits.SD3_MEDIUM),
    "sd3.5-medium": (mmdit, mmdits.SD35_MEDIUM),
    "sd3.5-large": (mmdit, mmdits.SD35_LARGE),
}


@pytest.mark.parametrize("name", OURS)
def test_configs_are_read_as_they_were_written(name):
    room, config = OURS[name]
    assert room.read_config(room.write_config(config)) == config


def test_what_a_config_json_leaves_out_is_what_diffusers_takes():
    """The files of Stable Diffusion 1.5's autoencoder and of DiT-XL/2 hold no more than this."""
    attributes = {
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu", "sample_size": 512,
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3,
        "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }  # fmt: skip
    assert autoencoder.read_config(attributes) == autoencoders.SD_AUTOENCODER
    attributes = {
        "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0", "activation_fn": "gelu-approximate",
        "attention_bias": True, "attention_head_dim": 72, "cross_attention_dim": None, "dropout": 0.0,
        "in_channels": 4, "norm_elementwise_affine": False, "norm_num_groups": 32, "norm_type": "ada_norm_zero",
        "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28, "num_vector_embeds": None,
        "only_cross_attention": False, "out_channels": 8, "patch_size": 2, "sample_size": 32,
        "upcast_attention": False, "use_linear_projection": False,
    }  # fmt: skip
    assert dit.read_config(attributes) == PUBLISHED


@pytest.mark.parametrize(
    ("room", "change", "words"),
    [
        (autoencoder, {"decoder_block": 3}, "'decoder_block' .3., which is not known"),
        (autoencoder, {"_class_name": "VQModel"}, "_class_name 'VQModel'; 'AutoencoderKL' is needed"),
        (autoencoder, {"latents_mean": [0.5] * 4}, "latents_mean"),
        (autoencoder, {"block_out_channels": [128, "256"]}, "block_out_channels"),
        (autoencoder, {"block_out_channels": [128] * 999}, "block_out_channels"),
        (autoencoder, {"out_channels": 4}, "out_channels '4'; in_channels 3 is needed"),
        (autoencoder, {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types"),
        (autoencoder, {"scaling_factor": 0.0}, "scaling_factor '0.0'; a number above 0"),
        (dit, {"norm_type": "ada_norm_single"}, "norm_type 'ada_norm_single'; 'ada_norm_zero' is needed"),
        (dit, {"num_layers": 10**9}, "num_layers"),
        (dit, {"cross_attention_dim": 768}, "cross_attention_dim"),
        (dit, {"patch_size": 5}, "sample_size is 32; a multiple of patch_size 5"),
        (mmdit, {"dual_attention_layers": [1, 2]}, "a list 0, 1, 2 and so on is needed"),
        (mmdit, {"qk_norm": "layer_norm"}, "qk_norm 'layer_norm'; rms_norm or null is needed"),
        (mmdit, {"caption_projection_dim": 5}, "caption_projection_dim '5'; the width of a token, 1536, is needed"),
        (mmdit, {"num_layers": 0}, "num_layers"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(room, change, words):
    config = {autoencoder: autoencoders.SD_AUTOENCODER, dit: PUBLISHED, mmdit: mmdits.SD3_MEDIUM}[room]
    with pytest.raises(InputError, match=words) as error:
        room.read_config(room.write_config(config) | change)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("room", "config", "words"),
    [
        (autoencoder, dataclasses.replace(autoencoders.SD_AUTOENCODER, epsilon=1e-5), "epsilon is 1e-05; 1e-06"),
        (dit, dits.DiTConfig(), "frequency_shift is 0.0; 1.0 is needed"),
        (mmdit, dataclasses.replace(MMDIT, epsilon=1e-5), "epsilon is 1e-05; 1e-06"),
    ],
)
def test_what_diffusers_does_not_have_is_not_written(room, config, words):
    with pytest.raises(InputError, match=words):
        room.write_config(config)


@pytest.mark.parametrize(("room", "config"), [(dit, DIT), (mmdit, MMDIT)], ids=["dit", "mmdit"])
def test_weights_come_back_and_every_tensor_counts(room, config):
    params, table, structure = random_params(config), room.table(config), room.structure(config)
    tensors = to_theirs(table, structure, params)
    again = to_ours(table, structure, tensors)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    name = "transformer_blocks.1.ff.net.2.bias"
    with pytest.raises(InputError, match="missing"):
        to_ours(table, structure, {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(InputError, match="not expected"):
        to_ours(table, structure, tensors | {"transformer_blocks.9.ff.net.2.bias": tensors[name]})
