"""Models that diffusers' Flax classes wrote compute what its torch classes compute with the same weights.

The files were written by diffusers 0.39 (`experiments/build_legacy_flax.py`); the weights reach torch by a conversion
of this test's own, since diffusers has none any more.
"""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict

from fmzoo.interop import autoencoder, flax_msgpack, unet
from fmzoo.interop.mapping import to_ours
from fmzoo.models.autoencoder import AutoencoderKL
from fmzoo.models.unet import UNet

pytestmark = pytest.mark.reference

LEGACY = pathlib.Path(__file__).parents[1] / "data" / "legacy"
TOLERANCE = 1e-4


def torch_model(name, cls, **options):
    """diffusers' torch class with the weights of a file."""
    import torch

    values = json.loads((LEGACY / name / "config.json").read_text())
    model = cls(**{key: value for key, value in values.items() if key in options})
    state = model.state_dict()
    for path, array in flatten_dict(msgpack_restore((LEGACY / name / flax_msgpack.WEIGHTS).read_bytes())).items():
        array = np.asarray(array, np.float32)
        theirs = ".".join(path[:-1]) + {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}[path[-1]]
        if not theirs.startswith("time_embedding"):
            theirs = re.sub(r"_(\d+)", r".\1", theirs)
        for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
            theirs = re.sub(rf"(attentions\.0)\.{old}\.", rf"\1.{new}.", theirs)
        axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[array.ndim]
        assert state[theirs].shape == array.transpose(axes).shape
        state[theirs] = torch.from_numpy(np.array(array.transpose(axes), order="C"))
    model.load_state_dict(state)
    return model.eval()


def ours(name, read_config):
    values = flax_msgpack.read_config(json.loads((LEGACY / name / "config.json").read_text()))
    return read_config(values), flax_msgpack.read_file(LEGACY / name / flax_msgpack.WEIGHTS)


@pytest.mark.parametrize("size", [(2, 8, 6), (1, 5, 9), (3, 4, 4)])
def test_a_unet_equals_torch(size):
    import diffusers
    import torch

    batch, height, width = size
    options = dict.fromkeys(
        ("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels")
        + ("layers_per_block", "attention_head_dim", "cross_attention_dim")
    )
    model = torch_model("unet", diffusers.UNet2DConditionModel, **options)
    config, tensors = ours("unet", unet.read_unet)
    params = to_ours(unet.unet_table(config), unet.unet_structure(config), tensors)
    rng = np.random.default_rng(height)
    sample = rng.standard_normal((batch, 3, height, width)).astype(np.float32)
    context = rng.standard_normal((batch, 7, 12)).astype(np.float32)
    times = rng.integers(0, 1000, batch).astype(np.float32)
    with torch.no_grad():
        needed = model(torch.from_numpy(sample), torch.from_numpy(times), torch.from_numpy(context)).sample.numpy()
    found = jax.jit(UNet(config).apply)({"params": params}, sample.transpose(0, 2, 3, 1), times, context)
    assert needed.std() > 0.1
    np.testing.assert_allclose(np.asarray(found).transpose(0, 3, 1, 2), needed, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(2, 12, 10), (1, 8, 14)])
def test_an_autoencoder_equals_torch(size):
    import diffusers
    import torch

    batch, height, width = size
    options = dict.fromkeys(
        ("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels", "layers_per_block")
        + ("latent_channels", "norm_num_groups", "scaling_factor")
    )
    model = torch_model("vae", diffusers.AutoencoderKL, **options)
    config, tensors = ours("vae", autoencoder.read_config)
    params = to_ours(autoencoder.table(config), autoencoder.structure(config), tensors)
    rng = np.random.default_rng(height)
    image = rng.standard_normal((batch, 3, height, width)).astype(np.float32)
    latents = rng.standard_normal((batch, 3, height // 2, width // 2)).astype(np.float32)
    with torch.no_grad():
        posterior = model.encode(torch.from_numpy(image)).latent_dist
        decoded = model.decode(torch.from_numpy(latents)).sample.numpy()
    module = AutoencoderKL(config)
    mean, logvar = module.apply({"params": params}, image.transpose(0, 2, 3, 1), method="encode")
    found = module.apply({"params": params}, latents.transpose(0, 2, 3, 1), method="decode")
    assert min(posterior.mean.std(), decoded.std()) > 0.1
    for x, y in [(mean, posterior.mean.numpy()), (logvar, posterior.logvar.numpy()), (found, decoded)]:
        np.testing.assert_allclose(np.asarray(x).transpose(0, 3, 1, 2), y, atol=TOLERANCE)
