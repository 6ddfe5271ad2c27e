"""The latent autoencoder against diffusers: both ways the same, and back bit for bit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from fmzoo.interop import autoencoder as files
from fmzoo.interop import to_ours
from fmzoo.models.autoencoder import AutoencoderKL
from tests.reference.conversion import Conversion, check_round_trip, compiled, ours, theirs
from tests.reference.random_weights import TOLERANCE, distance, exchanged, first, tensors_of

pytestmark = pytest.mark.reference


def sizes(channels, **options):
    return {
        "block_out_channels": channels, "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels), "norm_num_groups": 4,
    } | options  # fmt: skip


CASES = {
    "sd": sizes((8, 12, 20), layers_per_block=2),
    "sd3": sizes((12, 16), latent_channels=7, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5,
                 shift_factor=0.06, force_upcast=False),
    "no-attention": sizes((4, 4, 8), in_channels=1, out_channels=1, mid_block_add_attention=False),
}  # fmt: skip
AUTOENCODER = Conversion("AutoencoderKL", files, CASES)
SHAPES = {"odd": (2, 12, 20), "wide": (1, 8, 28), "tall": (3, 20, 4)}  # rows, height, width
EXCHANGED = {
    "sd": ("decoder/middle/attention/query", "decoder/middle/attention/key"),
    "sd3": ("decoder/middle/block_0/norm1", "decoder/middle/block_1/norm1"),
    "no-attention": ("decoder/level_1_block_0/conv2", "decoder/level_1_block_1/conv2"),
}


@functools.cache
def image(name, shape):
    channels = CASES[name].get("in_channels", 3)
    return np.random.default_rng(3).uniform(-1, 1, (*SHAPES[shape], channels)).astype(np.float32)


@functools.cache
def latents(name, shape):
    config, (rows, height, width) = ours(AUTOENCODER, name)[0], SHAPES[shape]
    size = rows, height // config.factor, width // config.factor, config.latent_channels
    return np.random.default_rng(4).standard_normal(size).astype(np.float32)


@functools.cache
def expected(name, shape):
    """Mean and log-variance of the picture, and the picture of the latents."""
    return run_theirs(theirs(AUTOENCODER, name), name, shape)


def run_theirs(model, name, shape):
    import torch

    with torch.no_grad():
        found = model.encode(first(image(name, shape))).latent_dist
        return found.mean, found.logvar, model.decode(first(latents(name, shape))).sample


def errors(name, shape, config, params):
    module, variables = AutoencoderKL(config), {"params": params}
    encoded = compiled(module, "encode")(variables, image(name, shape))
    found = *encoded, compiled(module, "decode")(variables, latents(name, shape))
    return [distance(*pair) for pair in zip(found, expected(name, shape), strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_both_ways_are_those_of_diffusers(name, shape):
    assert max(errors(name, shape, *ours(AUTOENCODER, name))) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_planted_errors_are_seen(name):
    config, params = ours(AUTOENCODER, name)
    assert min(errors(name, "odd", dataclasses.replace(config, epsilon=1e-2), params)) > TOLERANCE
    assert errors(name, "odd", config, exchanged(params, *EXCHANGED[name]))[2] > TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_bit_for_bit_what_was_read(name):
    check_round_trip(AUTOENCODER, name, lambda model: run_theirs(model, name, "odd"))


def test_older_names_of_the_attention_are_read():
    config, params = ours(AUTOENCODER, "sd")
    new = {f".{new}.": f".{old}." for old, new in files.OLD_NAMES.items()}
    tensors = {}
    for name, tensor in tensors_of(theirs(AUTOENCODER, "sd")).items():
        for there, old in new.items():
            name = name.replace(there, old) if "attentions" in name else name
        tensors[name] = tensor
    assert any("proj_attn" in name for name in tensors)
    again = to_ours(files.table(config), files.structure(config), tensors)
    jax.tree.map(np.testing.assert_array_equal, again, params)
