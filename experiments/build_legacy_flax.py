"""Writes the small files in tests/data/legacy: models of diffusers' Flax classes, which diffusers dropped in 0.40.

Claim: `fmzoo.load` reads what those classes wrote. The files are made by the classes themselves, with random weights,
and beside them stands what the classes computed from them, so that the tests need neither the classes nor torch.

Run in an environment of its own, from the root of the repository (20 seconds on one core):

    python3.11 -m venv /tmp/legacy
    /tmp/legacy/bin/pip install "diffusers==0.39.*" "flax==0.8.5" "jax==0.4.30" "jaxlib==0.4.30" "numpy<2"
    /tmp/legacy/bin/python experiments/build_legacy_flax.py

The Flax U-Net has 32 groups in every group norm, so that 32 channels are the fewest there can be; its weights are
stored in bfloat16. Its GEGLU takes the tanh approximation of GELU where torch's takes the exact one: what it says is
recorded with the exact one, with which the published weights were trained.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import FlaxAutoencoderKL, FlaxUNet2DConditionModel
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

FOLDER = pathlib.Path("tests/data/legacy")
UNET = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
}
AUTOENCODER = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (8, 12),
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 4,
    "sample_size": 12,
}


def random_like(params: dict, rng: np.random.Generator) -> dict:
    """Weights that leave the size of features as it is, none of them zero; bfloat16 values in float32."""

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        noise = rng.standard_normal(shape)
        values = {"scale": 1 + 0.2 * noise, "bias": 0.2 * noise}.get(path[-1], noise * np.prod(shape[:-1]) ** -0.5)
        return jnp.asarray(values, jnp.bfloat16).astype(jnp.float32)

    return unflatten_dict({path: draw(path, leaf.shape) for path, leaf in flatten_dict(params).items()})


def build_unet(rng: np.random.Generator) -> None:
    """A U-Net of Stable Diffusion 1's kind with two levels."""
    model = FlaxUNet2DConditionModel(**UNET)
    params = random_like(jax.eval_shape(model.init_weights, jax.random.key(0)), rng)
    sample, context = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 8, 6), (2, 5, 12)))
    times = jnp.array([7.0, 913.0])
    approximate, nn.gelu = nn.gelu, functools.partial(nn.gelu, approximate=False)
    output = model.apply({"params": params}, sample, times, context).sample
    nn.gelu = approximate
    model.save_pretrained(FOLDER / "unet", params=model.to_bf16(params))
    np.savez_compressed(
        FOLDER / "unet.npz", sample=sample, context=context, times=np.asarray(times), output=np.asarray(output)
    )


def build_autoencoder(rng: np.random.Generator) -> None:
    """An autoencoder with two levels; its weights are stored in float32."""
    model = FlaxAutoencoderKL(**AUTOENCODER)
    params = random_like(jax.eval_shape(model.init_weights, jax.random.key(0)), rng)
    image = rng.standard_normal((2, 3, 12, 10)).astype(np.float32)
    posterior = model.apply({"params": params}, image, method=model.encode).latent_dist
    decoded = model.apply({"params": params}, posterior.mean, method=model.decode).sample
    model.save_pretrained(FOLDER / "vae", params=params)
    found = {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": decoded}
    np.savez_compressed(FOLDER / "vae.npz", image=image, **{name: np.asarray(x) for name, x in found.items()})


if __name__ == "__main__":
    build_unet(np.random.default_rng(1))
    build_autoencoder(np.random.default_rng(2))
