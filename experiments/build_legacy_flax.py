"""Writes the small files in tests/data/legacy: models of the Flax classes that diffusers and transformers had.

Diffusers dropped them in 0.40, transformers in 5.0. Claim: `fmzoo.load` reads what those classes wrote. The files are
made by the classes themselves, with random weights, and beside them stands what the classes computed from them, so that
the tests need neither the classes nor torch.

Run in an environment of its own, from the root of the repository (a minute on one core); names choose what is written:

    python3.11 -m venv /tmp/legacy
    /tmp/legacy/bin/pip install "diffusers==0.39.*" "transformers==4.57.*" "flax==0.8.5" "jax==0.4.30" \\
        "jaxlib==0.4.30" "numpy<2"
    /tmp/legacy/bin/python experiments/build_legacy_flax.py unet vae gpt2 gptj opt llama gemma mistral

The Flax U-Net has 32 groups in every group norm, so that 32 channels are the fewest there can be; its weights are
stored in bfloat16. Its GEGLU takes the tanh approximation of GELU where torch's takes the exact one: what it says is
recorded with the exact one, with which the published weights were trained. The Flax Mistral sees one key more than its
window where torch's sees as many: what it says is recorded for a sequence shorter than the window. The Flax Llama turns
by a theta of 10,000 whatever its config says, so that is what its config says here.
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import transformers
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

IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GPT = {"vocab_size": 53, "n_positions": 24, "n_embd": 20, "n_layer": 2} | IDS
LLAMA = {
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 24,
} | IDS
OPT = {
    "vocab_size": 53,
    "hidden_size": 20,
    "word_embed_proj_dim": 20,
    "ffn_dim": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
} | IDS
MODELS = {
    "gpt2": ("GPT2", GPT | {"n_head": 4}),
    "gptj": ("GPTJ", GPT | {"n_head": 2, "rotary_dim": 4, "tie_word_embeddings": False}),
    "opt": ("OPT", OPT),
    "llama": ("Llama", LLAMA),
    "gemma": ("Gemma", LLAMA | {"head_dim": 12, "hidden_activation": "gelu_pytorch_tanh"}),
    "mistral": ("Mistral", LLAMA | {"sliding_window": 16}),
}
IN_SHARDS, IN_HALF = "llama", "gemma"


def random_like(params: dict, rng: np.random.Generator) -> dict:
    """Weights that leave the size of features as it is, none of them zero; bfloat16 values in float32."""

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        noise = rng.standard_normal(shape)
        kernel, near_one, near_zero = noise * np.prod(shape[:-1]) ** -0.5, 1 + 0.2 * noise, 0.2 * noise
        values = {"scale": near_one, "weight": near_one, "bias": near_zero}.get(path[-1], kernel)
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


def build_model(name: str, rng: np.random.Generator) -> None:
    """A language model of transformers with two layers, in one file or in shards."""
    family, options = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**options)
    cls = getattr(transformers, f"Flax{family}LMHeadModel" if name == "gpt2" else f"Flax{family}ForCausalLM")
    model = cls(config, _do_init=False)
    params = random_like(model.params_shape_tree, rng)
    tokens = rng.integers(0, config.vocab_size, (2, 13))
    logits = model(tokens, params=params).logits
    stored = model.to_bf16(params) if name == IN_HALF else params
    model.save_pretrained(FOLDER / name, params=stored, max_shard_size="12KB" if name == IN_SHARDS else "1GB")
    np.savez_compressed(FOLDER / f"{name}.npz", tokens=tokens, logits=np.asarray(logits, np.float32))


if __name__ == "__main__":
    for number, part in enumerate(("unet", "vae", *MODELS), 1):
        if part in sys.argv[1:]:
            build = {"unet": build_unet, "vae": build_autoencoder}.get(part, functools.partial(build_model, part))
            build(np.random.default_rng(number))
