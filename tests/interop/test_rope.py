"""Rotary positions in both spellings, and what is refused."""

import math

import pytest

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.rope import read_rope, read_ropes, write_rope
from fmzoo.models import RopeConfig

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
DEFAULTS = {"rope_theta": 10_000.0, "rope_local_base_freq": 10_000.0}


def read(values, context=4096, reader=read_rope):
    attributes = Attributes(values, DEFAULTS, "config.json")
    rope = reader(attributes, context)
    attributes.close()
    return rope


@pytest.mark.parametrize(
    ("older", "newer", "rope"),
    [
        ({}, {}, RopeConfig()),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_type": "default", "rope_theta": 5e5}, RopeConfig(theta=5e5)),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3"} | LLAMA3},
            {"rope_theta": 5e5, "rope_type": "llama3"} | LLAMA3,
            RopeConfig(theta=5e5, scaling="llama3", factor=8.0, original_context=8192),
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_type": "linear", "factor": 2},
            RopeConfig(scaling="linear", factor=2.0),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": None, "attention_factor": None}},
            {"rope_type": "yarn", "factor": 4.0, "truncate": True},
            RopeConfig(scaling="yarn", factor=4.0, original_context=4096),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 1024},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
            RopeConfig(scaling="yarn", factor=4.0, original_context=1024),
        ),
    ],
)
def test_both_spellings_read_alike(older, newer, rope):
    assert read(older) == read({"rope_parameters": newer}) == rope
    assert read(older | {"rope_parameters": newer}) == rope


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig(theta=1e6),
        RopeConfig(scaling="linear", factor=3.0),
        RopeConfig(
            scaling="llama3", factor=32.0, low_frequency_factor=2.0, high_frequency_factor=5.0, original_context=99
        ),
        RopeConfig(scaling="yarn", factor=4.0, beta_fast=30.0, beta_slow=2.0, original_context=77),
        RopeConfig(scaling="yarn", factor=4.0, original_context=77, attention_factor=1.5),
    ],
)
def test_what_is_written_reads_back(rope):
    assert read(write_rope(rope)) == rope


def test_mscale_becomes_the_attention_factor():
    rope = read({"rope_scaling": {"type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5}})
    assert rope.attention_factor == pytest.approx((0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1), rel=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        },
    ],
)
def test_gemma_3_has_one_for_each_kind_of_layer(values):
    expected = RopeConfig(theta=1e6, scaling="linear", factor=8.0), RopeConfig(theta=2e4)
    assert read(values, reader=read_ropes) == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "has rope_type 'dynamic'; default or linear or llama3"),
        ({"rope_scaling": {"type": "linear"}}, "the rope of config.json has factor 'None'; float is needed"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "has factor '2'; float is needed"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "turn": 1}}, "has 'turn' .1., which is not known here"),
        ({"rope_scaling": {"type": "default", "mrope_section": [1, 1]}}, "has 'mrope_section'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "has truncate 'False'; True or None"),
        ({"rope_scaling": "linear"}, "has rope_scaling 'linear'; dict is needed"),
        ({"partial_rotary_factor": 0.5}, "has partial_rotary_factor '0.5'; 1 or None is needed"),
        ({"rope_theta": True}, "has rope_theta 'True'; float is needed"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 3.0}},
            "what rope_parameters says is needed",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8},
             "original_max_position_embeddings": 9},
            "has original_max_position_embeddings '8'; 9 or None is needed",
        ),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        read(values)


def test_gemma_3_knows_two_kinds_of_layers():
    with pytest.raises(
        InputError, match="has rope_parameters 'chunked'; full_attention and sliding_attention is needed"
    ):
        read({"rope_parameters": {"chunked": {}}}, reader=read_ropes)
