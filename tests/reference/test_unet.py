"""U-Nets against diffusers: the same random weights give the same output, and go back bit for bit.

Two float32 implementations add in other orders; the tolerance leaves room for that and for no planted error, each of
which must exceed it in the same comparison.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.interop.mapping import to_ours, to_theirs
from fmzoo.interop.unet import read_unet, unet_structure, unet_table, write_unet
from fmzoo.models.unet import UNet
from tests.models.test_unet import tree_at

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4  # of the largest output, elementwise
SIZES = {"norm_num_groups": 4, "layers_per_block": 1, "sample_size": 8}
CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
CASES = {
    "sd1": {
        "block_out_channels": (12, 20), "down_block_types": (CROSS_DOWN, DOWN), "up_block_types": (UP, CROSS_UP),
        "attention_head_dim": 4, "cross_attention_dim": 14,
    },
    "sd2-inpainting": {
        "in_channels": 9, "block_out_channels": (8, 24), "down_block_types": (DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, UP), "attention_head_dim": (2, 3), "cross_attention_dim": 10,
        "use_linear_projection": True, "upcast_attention": True, "norm_eps": 1e-3,
    },
    "xl": {
        "block_out_channels": (8, 16), "down_block_types": (DOWN, CROSS_DOWN), "up_block_types": (CROSS_UP, UP),
        "attention_head_dim": (1, 4), "cross_attention_dim": 18, "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": 11 + 5 * 6,
    },
    "pixels": {
        "in_channels": 3, "out_channels": 6, "block_out_channels": (8, 12, 16), "down_block_types": (DOWN,) * 3,
        "up_block_types": (UP,) * 3, "mid_block_type": "UNetMidBlock2D", "num_class_embeds": 7, "act_fn": "gelu",
        "resnet_time_scale_shift": "scale_shift", "flip_sin_to_cos": False, "freq_shift": 1, "time_embedding_dim": 26,
    },
    "uneven": {
        "block_out_channels": (8, 12, 16), "layers_per_block": (1, 2, 1), "mid_block_type": None,
        "down_block_types": (CROSS_DOWN, DOWN, DOWN), "up_block_types": (UP, CROSS_UP, UP), "cross_attention_dim": 9,
        "transformer_layers_per_block": [1, 2, 1], "reverse_transformer_layers_per_block": [1, 2, 1],
        "attention_head_dim": 2,
    },
}  # fmt: skip
SHAPES = {"odd": (2, 7, 5, 3), "wide": (1, 6, 13, 1), "tall": (3, 9, 4, 6)}  # rows, height, width, tokens
EXCHANGED = {  # parts whose weights change places: an error that no shape gives away
    "sd1": ("middle/transformer_0/layer_0/self_attention/key", "middle/transformer_0/layer_0/self_attention/query"),
    "sd2-inpainting": ("up_1/resnet_0/norm2", "up_1/resnet_1/norm2"),
    "xl": ("down_1/transformer_0/layer_0/cross_norm", "down_1/transformer_0/layer_1/mlp_norm"),
    "pixels": ("down_0/resnet_0/conv2", "up_0/resnet_1/conv2"),
    "uneven": ("up_1/transformer_1/input", "up_1/transformer_1/output"),
}
CHANGED = {  # options with other values
    "sd1": {"num_heads": (2, 4)},
    "sd2-inpainting": {"epsilon": 1e-5},
    "xl": {"sines_first": True},
    "pixels": {"frequency_shift": 0.0},
    "uneven": {"activation": "gelu"},
}


@functools.cache
def reference(name):
    """A model of diffusers whose weights let scores, gates and norms vary by 1 or so."""
    import diffusers
    import torch

    model = diffusers.UNet2DConditionModel(**SIZES | CASES[name]).eval()
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(0.3 * noise + (1 if "norm" in path and path.endswith("weight") else 0))
            else:
                scores = "to_q" in path or "to_k" in path
                weight.copy_(noise * (2 if scores else 1) * weight[0].numel() ** -0.5)
    return model


@functools.cache
def converted(name):
    model = reference(name)
    config = read_unet(json.loads(model.to_json_string()))
    tensors = {path: tensor.numpy() for path, tensor in model.state_dict().items()}
    return config, to_ours(unet_table(config), unet_structure(config), tensors), tensors


@functools.cache
def inputs(name, shape):
    """Channels last, as NumPy."""
    config, (rows, height, width, tokens) = converted(name)[0], SHAPES[shape]
    rng = np.random.default_rng(rows)

    def normal(*sizes):
        return rng.standard_normal(sizes).astype(np.float32)

    added = {}
    if config.num_classes:
        added["label"] = rng.integers(0, config.num_classes, rows)
    if config.added_dim:
        added |= {"pooled": normal(rows, 11), "time_ids": rng.uniform(0, 1000, (rows, 5)).astype(np.float32)}
    context = normal(rows, tokens, config.context_dim or 1280)
    return normal(rows, height, width, config.in_channels), rng.uniform(0, 999, rows).astype(np.float32), context, added


@functools.cache
def expected(name, shape):
    import torch

    sample, times, context, added = (jax.tree.map(torch.from_numpy, x) for x in inputs(name, shape))
    options = {"class_labels": added["label"]} if "label" in added else {}
    if "pooled" in added:
        options["added_cond_kwargs"] = {"text_embeds": added["pooled"], "time_ids": added["time_ids"]}
    with torch.no_grad():
        return reference(name)(sample.permute(0, 3, 1, 2), times, context, **options).sample.permute(0, 2, 3, 1).numpy()


@functools.cache
def compiled(config):
    module = UNet(config)
    return jax.jit(
        lambda params, sample, times, context, added: module.apply({"params": params}, sample, times, context, added)
    )


def error(name, shape, config, params):
    sample, times, context, added = inputs(name, shape)
    ours = compiled(config)(params, sample, times, context if config.context_dim else None, added)
    return float(np.max(np.abs(np.asarray(ours) - expected(name, shape))) / np.max(np.abs(expected(name, shape))))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_diffusers(name, shape):
    config, params, _ = converted(name)
    assert error(name, shape, config, params) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_planted_errors_are_seen(name):
    config, params, _ = converted(name)
    one, other = EXCHANGED[name]
    exchanged = jax.tree.map(lambda leaf: leaf, params)
    for here, there in ((one, other), (other, one)):
        tree_at(exchanged, here.rpartition("/")[0])[here.rpartition("/")[2]] = tree_at(params, there)
    assert error(name, "odd", config, exchanged) > 3 * TOLERANCE
    assert error(name, "odd", dataclasses.replace(config, **CHANGED[name]), params) > 3 * TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_every_weight_goes_back_bit_for_bit(name):
    config, params, tensors = converted(name)
    back = to_theirs(unet_table(config), unet_structure(config), params)
    assert back.keys() == tensors.keys()
    for path, tensor in tensors.items():
        np.testing.assert_array_equal(back[path], tensor, err_msg=path)


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_the_same_network_in_diffusers(name):
    import diffusers

    config, _, tensors = converted(name)
    attributes = write_unet(config)
    again = diffusers.UNet2DConditionModel.from_config(attributes).state_dict()
    assert {path: tuple(tensor.shape) for path, tensor in again.items()} == {p: t.shape for p, t in tensors.items()}
    assert read_unet(attributes) == config
    assert attributes.keys() <= dict(reference(name).config).keys() | {"_class_name"}


def test_a_loss_falls_alike():
    """The gradients of a squared error agree, through every kind of part of the first case."""
    import torch

    config, params, _ = converted("sd1")
    sample, times, context, added = inputs("sd1", "odd")
    module, model = UNet(config), reference("sd1")

    def loss(params):
        return jnp.mean(module.apply({"params": params}, sample, times, context, added) ** 2)

    found = to_theirs(unet_table(config), unet_structure(config), jax.jit(jax.grad(loss))(params))
    out = model(*(torch.from_numpy(x) for x in (sample.transpose(0, 3, 1, 2), times, context))).sample
    needed = torch.autograd.grad((out**2).mean(), list(model.parameters()))
    for (path, _), gradient in zip(model.named_parameters(), needed, strict=True):
        largest = float(gradient.abs().max())
        np.testing.assert_allclose(found[path], gradient.numpy(), atol=1e-3 * largest + 1e-7, err_msg=path)
