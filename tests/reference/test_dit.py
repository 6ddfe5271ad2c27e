"""DiT against diffusers: the same random weights give the same output, and go back bit for bit."""

import dataclasses
import functools

import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.interop import dit as files
from fmzoo.interop import to_ours
from fmzoo.models.dit import DiT
from tests.reference.conversion import Conversion, check_round_trip, compiled, ours, theirs
from tests.reference.random_weights import TOLERANCE, config_of, distance, exchanged, first, tensors_of

pytestmark = pytest.mark.reference
CASES = {  # attributes, and rows and side of the sample
    "native": ({"num_attention_heads": 3, "attention_head_dim": 12, "num_layers": 3, "sample_size": 6,
                "num_embeds_ada_norm": 7, "in_channels": 4, "out_channels": 8}, 2, 6),
    "resized": ({"num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 2, "sample_size": 8,
                 "num_embeds_ada_norm": 5, "in_channels": 3, "norm_eps": 1e-2}, 3, 14),
    "patches-of-3": ({"num_attention_heads": 5, "attention_head_dim": 8, "num_layers": 4, "sample_size": 15,
                      "num_embeds_ada_norm": 3, "in_channels": 2, "out_channels": 5, "patch_size": 3}, 1, 9),
}  # fmt: skip


def share_embedding(model):
    """Each block of diffusers has a copy of one embedding."""
    shared = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(shared.state_dict())


DIT = Conversion("DiTTransformer2DModel", files, {name: case[0] for name, case in CASES.items()}, share_embedding)


@functools.cache
def inputs(name):
    (options, rows, side), rng = CASES[name], np.random.default_rng(1)
    sample = rng.standard_normal((rows, side, side, options["in_channels"])).astype(np.float32)
    labels = np.arange(rows) + options["num_embeds_ada_norm"] + 1 - rows  # the last is no class
    return sample, rng.uniform(0, 999, rows).astype(np.float32), labels


def run_theirs(model, name):
    import torch

    sample, times, labels = inputs(name)
    with torch.no_grad():
        return model(first(sample), torch.from_numpy(times), torch.from_numpy(labels)).sample


@functools.cache
def expected(name):
    return run_theirs(theirs(DIT, name), name)


def error(name, config, params):
    return distance(compiled(DiT(config))({"params": params}, *inputs(name)), expected(name))


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_diffusers_and_planted_errors_are_seen(name):
    config, params = ours(DIT, name)
    assert error(name, config, params) < TOLERANCE
    wrong = {
        "native": {"frequency_shift": 0.0},
        "resized": {"mlp_epsilon": 1e-5},
        "patches-of-3": {"sample_size": 18},
    }[name]
    assert error(name, dataclasses.replace(config, **wrong), params) > TOLERANCE
    swapped = exchanged(params, "blocks/attention/query", "blocks/attention/key")
    assert error(name, config, swapped) > TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_bit_for_bit_what_was_read(name):
    check_round_trip(DIT, name, lambda model: [run_theirs(model, name)])


def test_the_older_class_name_is_read_and_blocks_that_differ_are_refused():
    config, _ = ours(DIT, "native")
    old = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "num_vector_embeds": None}
    assert files.read_config(config_of(theirs(DIT, "native")) | old) == config
    tensors = tensors_of(theirs(DIT, "native"))
    name = "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"
    with pytest.raises(InputError, match="differ from block to block"):
        to_ours(files.table(config), files.structure(config), tensors | {name: tensors[name] + 1})
