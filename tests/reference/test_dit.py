"""DiT against diffusers: the same random weights give the same output, and go back bit for bit.

diffusers reads samples of any height and width, and puts the patches together in a square all the same: ``height =
width = int(hidden_states.shape[1] ** 0.5)`` at the end of `DiTTransformer2DModel.forward`. So its tokens are compared
whose number is a square, as of 1 x 4, 2 x 8 or 9 x 4 patches: its picture is cut into them and they are put in place.
"""

import dataclasses
import functools

import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.interop import dit as files
from fmzoo.interop import to_ours
from fmzoo.models import dit
from fmzoo.models.dit import DiT
from fmzoo.models.image_transformer import patchify, sincos_positions, unpatchify
from tests.reference.conversion import Conversion, check_round_trip, compiled, ours, theirs
from tests.reference.random_weights import TOLERANCE, config_of, distance, exchanged, first, tensors_of

pytestmark = pytest.mark.reference
CASES = {  # attributes, and rows of the sample
    "native": ({"num_attention_heads": 3, "attention_head_dim": 12, "num_layers": 3, "sample_size": 6,
                "num_embeds_ada_norm": 7, "in_channels": 4, "out_channels": 8}, 2),
    "resized": ({"num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 2, "sample_size": 8,
                 "num_embeds_ada_norm": 5, "in_channels": 3, "norm_eps": 1e-2}, 3),
    "patches-of-3": ({"num_attention_heads": 5, "attention_head_dim": 8, "num_layers": 4, "sample_size": 15,
                      "num_embeds_ada_norm": 3, "in_channels": 2, "out_channels": 5, "patch_size": 3}, 1),
}  # fmt: skip
SIZES = {"native": ((6, 6), (4, 16), (18, 8)), "resized": ((14, 14), (2, 8), (16, 4)),
         "patches-of-3": ((9, 9), (27, 12), (3, 12))}  # fmt: skip


def share_embedding(model):
    """Each block of diffusers has a copy of one embedding."""
    shared = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(shared.state_dict())


DIT = Conversion("DiTTransformer2DModel", files, {name: case[0] for name, case in CASES.items()}, share_embedding)


@functools.cache
def inputs(name, size):
    (options, rows), rng = CASES[name], np.random.default_rng(1)
    sample = rng.standard_normal((rows, *size, options["in_channels"])).astype(np.float32)
    labels = np.arange(rows) + options["num_embeds_ada_norm"] + 1 - rows  # the last is no class
    return sample, rng.uniform(0, 999, rows).astype(np.float32), labels


def run_theirs(model, name, size):
    import torch

    sample, times, labels = inputs(name, size)
    with torch.no_grad():
        square = model(first(sample), torch.from_numpy(times), torch.from_numpy(labels)).sample
    patches = patchify(np.moveaxis(square.numpy(), 1, -1), model.patch_size)
    return first(np.asarray(unpatchify(patches, *size, model.patch_size)))


@functools.cache
def expected(name, size):
    return run_theirs(theirs(DIT, name), name, size)


def error(name, size, config, params):
    return distance(compiled(DiT(config))({"params": params}, *inputs(name, size)), expected(name, size))


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in CASES for size in SIZES[name]])
def test_outputs_are_those_of_diffusers(name, size):
    config, params = ours(DIT, name)
    assert error(name, size, config, params) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_planted_errors_are_seen(name, monkeypatch):
    (config, params), size = ours(DIT, name), SIZES[name][0]
    wrong = {
        "native": {"frequency_shift": 0.0},
        "resized": {"mlp_epsilon": 1e-5},
        "patches-of-3": {"sample_size": 18},
    }[name]
    assert error(name, size, dataclasses.replace(config, **wrong), params) > TOLERANCE
    swapped = exchanged(params, "blocks/attention/query", "blocks/attention/key")
    assert error(name, size, config, swapped) > TOLERANCE
    monkeypatch.setattr(dit, "sincos_positions", lambda rows, columns, *rest: turned(columns, rows, *rest))
    unrolled = dataclasses.replace(config, layers="unrolled")  # compiled anew
    assert error(name, SIZES[name][1], unrolled, params) > TOLERANCE


def turned(*arguments):
    """Positions whose rows are taken for columns."""
    return sincos_positions(*arguments).swapaxes(0, 1)


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_bit_for_bit_what_was_read(name):
    check_round_trip(DIT, name, lambda model: [run_theirs(model, name, SIZES[name][1])])


def test_the_older_class_name_is_read_and_blocks_that_differ_are_refused():
    config, _ = ours(DIT, "native")
    old = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "num_vector_embeds": None}
    assert files.read_config(config_of(theirs(DIT, "native")) | old) == config
    tensors = tensors_of(theirs(DIT, "native"))
    name = "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"
    with pytest.raises(InputError, match="differ from block to block"):
        to_ours(files.table(config), files.structure(config), tensors | {name: tensors[name] + 1})
