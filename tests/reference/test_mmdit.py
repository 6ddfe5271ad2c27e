"""Stable Diffusion 3's and 3.5's transformer against diffusers: the same outputs, and back bit for bit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from fmzoo.interop import mmdit as files
from fmzoo.models.mmdit import MMDiT
from tests.reference.conversion import Conversion, check_round_trip, compiled, ours, theirs
from tests.reference.random_weights import TOLERANCE, distance, exchanged, first

pytestmark = pytest.mark.reference


def sizes(heads, head_dim, num_layers, **options):
    return {
        "num_attention_heads": heads, "attention_head_dim": head_dim, "caption_projection_dim": heads * head_dim,
        "num_layers": num_layers, "sample_size": 8, "joint_attention_dim": 11, "pooled_projection_dim": 13,
        "pos_embed_max_size": 9, "in_channels": 5, "out_channels": 3,
    } | options  # fmt: skip


CASES = {
    "sd3": sizes(3, 12, 3),
    "sd3.5-medium": sizes(2, 10, 4, qk_norm="rms_norm", dual_attention_layers=(0, 1), out_channels=None),
    "sd3.5-large": sizes(5, 4, 3, qk_norm="rms_norm", patch_size=3, sample_size=9, pos_embed_max_size=6),
    "one-layer": sizes(2, 6, 1),
}
MMDIT = Conversion("SD3Transformer2DModel", files, CASES)
SHAPES = {"odd": (2, 6, 12, 5), "wide": (1, 6, 18, 3), "tall": (3, 18, 6, 7)}  # rows, height, width, tokens
CHANGED = {
    "sd3": {"sample_size": 16},
    "sd3.5-medium": {"qk_norm": False},
    "sd3.5-large": {"epsilon": 1e-2},
    "one-layer": {"epsilon": 1e-2},
}


@functools.cache
def inputs(shape):
    (rows, height, width, tokens), rng = SHAPES[shape], np.random.default_rng(2)
    sample, context, pooled = (
        rng.standard_normal(size).astype(np.float32)
        for size in ((rows, height, width, 5), (rows, tokens, 11), (rows, 13))
    )
    return sample, rng.uniform(0, 1000, rows).astype(np.float32), context, pooled


def run_theirs(model, shape):
    import torch

    sample, times, context, pooled = inputs(shape)
    with torch.no_grad():
        context, pooled, times = (torch.from_numpy(x) for x in (context, pooled, times))
        return model(first(sample), context, pooled, times).sample


@functools.cache
def expected(name, shape):
    return run_theirs(theirs(MMDIT, name), shape)


def error(name, shape, config, params):
    return distance(compiled(MMDiT(config))({"params": params}, *inputs(shape)), expected(name, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_diffusers(name, shape):
    assert error(name, shape, *ours(MMDIT, name)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_planted_errors_are_seen(name):
    config, params = ours(MMDIT, name)
    if name == "sd3":  # the table of positions is an array of the file: move it
        moved = {**params, "position": {"bias": np.roll(params["position"]["bias"], 1, axis=0)}}
        assert error(name, "odd", config, moved) > TOLERANCE
    else:
        assert error(name, "odd", dataclasses.replace(config, **CHANGED[name]), params) > TOLERANCE
    kernel = params["final_modulation"]["projection"]["kernel"]
    halves = {"kernel": np.roll(kernel, config.width, axis=1), "bias": params["final_modulation"]["projection"]["bias"]}
    assert error(name, "odd", config, {**params, "final_modulation": {"projection": halves}}) > TOLERANCE
    kind = next(iter(config.stacks))
    swapped = exchanged(params, f"{kind}/attention/image/query", f"{kind}/attention/context/query")
    assert error(name, "odd", config, swapped) > TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_bit_for_bit_what_was_read(name):
    check_round_trip(MMDIT, name, lambda model: [run_theirs(model, "odd")])


def test_positions_start_as_those_of_diffusers():
    config, params = ours(MMDIT, "one-layer")
    made = jax.jit(MMDiT(config).init)(jax.random.key(0), *inputs("odd"))["params"]["position"]["bias"]
    np.testing.assert_allclose(made, params["position"]["bias"], atol=1e-6)
