"""The configs of a single file's networks, in diffusers' and transformers' form, as the shapes of tensors tell them.

What shapes do not tell is a matter of the version: the number of heads, the activation, the scheduler.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from fmzoo.errors import InputError

Version = Literal["1", "2", "xl", "xl-refiner"]
Tensors = Mapping[str, Any]
HEAD_DIM = 64  # of every attention but those of Stable Diffusion 1's U-Net, which has 8 heads everywhere
SAMPLE_SIZES = {"1": 64, "2": 96, "xl": 128, "xl-refiner": 128}
SCALING_FACTORS = {"1": 0.18215, "2": 0.18215, "xl": 0.13025, "xl-refiner": 0.13025}
BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "timestep_spacing": "leading",
}  # fmt: skip
SCHEDULERS: dict[str, dict[str, Any]] = {
    "1": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False},
    "2": {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False},
    "xl": {"_class_name": "EulerDiscreteScheduler"},
    "xl-refiner": {"_class_name": "EulerDiscreteScheduler"},
}
PREDICTIONS = {"1": "epsilon", "2": "v_prediction", "xl": "epsilon", "xl-refiner": "epsilon"}


def scheduler_config(version: Version, prediction: str | None, *, zero_terminal_snr: bool) -> dict[str, Any]:
    """The scheduler with which a version was published, or with another prediction."""
    config = SCHEDULERS[version] | BETAS | {"prediction_type": prediction or PREDICTIONS[version]}
    if zero_terminal_snr:  # which only sampling from the last step makes use of (arXiv 2305.08891)
        config |= {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False}
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def unet_config(tensors: Tensors, version: Version) -> dict[str, Any]:
    """The config of a U-Net, given its tensors by their names in diffusers."""
    channels = _channels(tensors, "down_blocks.{}.resnets.0.conv1.weight")
    levels = range(len(channels))
    depths = [_count(tensors, rf"down_blocks\.{i}\.attentions\.0\.transformer_blocks\.(\d+)\.") for i in levels]
    mid = _count(tensors, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    up = [_count(tensors, rf"up_blocks\.{i}\.attentions\.(\d+)\.") for i in levels]
    context = _shape(tensors, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")[1]
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": _shape(tensors, "conv_in.weight")[1],
        "out_channels": _shape(tensors, "conv_out.weight")[0],
        "sample_size": SAMPLE_SIZES[version],
        "block_out_channels": channels,
        "layers_per_block": _count(tensors, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if number else "UpBlock2D" for number in up],
        "transformer_layers_per_block": [*(depth or 1 for depth in depths[:-1]), depths[-1] or mid],
        "attention_head_dim": 8 if version == "1" else [max(width // HEAD_DIM, 1) for width in channels],
        "cross_attention_dim": context,
        "use_linear_projection": len(_shape(tensors, "mid_block.attentions.0.proj_in.weight", 1)) == 2,
        "upcast_attention": version == "2",
    }
    if "add_embedding.linear_1.weight" not in tensors:
        return config
    total = _shape(tensors, "add_embedding.linear_1.weight")[1]
    return config | {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": total,
    }


def autoencoder_config(tensors: Tensors, version: Version) -> dict[str, Any]:
    """The config of an autoencoder, given its tensors by their names in diffusers."""
    channels = _channels(tensors, "encoder.down_blocks.{}.resnets.0.conv1.weight")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": _shape(tensors, "encoder.conv_in.weight")[1],
        "out_channels": _shape(tensors, "decoder.conv_out.weight")[0],
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": _count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": _shape(tensors, "decoder.conv_in.weight")[1],
        "norm_num_groups": 32,
        "scaling_factor": SCALING_FACTORS[version],
    }


def text_config(tensors: Tensors, activation: str) -> dict[str, Any]:
    """The config of one of CLIP's text towers, given its tensors by their names in transformers.

    Names may lack ``text_model.``; the id at which the tower is pooled is the vocabulary's last.
    """
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    vocabulary, width = _shape(tensors, "embeddings.token_embedding.weight")
    projected = "text_projection.weight" in tensors
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(tensors, "encoder.layers.0.mlp.fc1.weight")[0],
        "projection_dim": _shape(tensors, "text_projection.weight")[0] if projected else width,
        "num_hidden_layers": _count(tensors, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(width // HEAD_DIM, 1),
        "max_position_embeddings": _shape(tensors, "embeddings.position_embedding.weight")[0],
        "hidden_act": activation,
        "eos_token_id": vocabulary - 1,
    }


def _channels(tensors: Tensors, pattern: str) -> list[int]:
    channels: list[int] = []
    while (name := pattern.format(len(channels))) in tensors:
        channels.append(_shape(tensors, name)[0])
    return channels


def _count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers there are in names that begin with a pattern."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _shape(tensors: Tensors, name: str, least: int = 2) -> tuple[int, ...]:
    if name not in tensors:
        raise InputError(
            f"the file has no tensor that stands for {name}, which tells a config; a whole model is needed"
        )
    shape = tuple(tensors[name].shape)
    if len(shape) < least:
        raise InputError(f"tensor {name} has shape {shape}; {least} axes at least are needed")
    return shape
