"""Models as pure functions: Linen modules over plain trees, with the frozen configs that know their size."""

from fmzoo.models.accounting import (
    active_parameter_count,
    flops_per_token,
    matmul_parameters,
    parameter_count,
)
from fmzoo.models.attention import Mask, attend, attend_cudnn, attend_splash
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL, from_latents, to_latents
from fmzoo.models.autoencoder_sharding import AUTOENCODER_RULES
from fmzoo.models.cache import cache_bytes, init_cache, unstack
from fmzoo.models.clip_text import CLIP_TEXT_RULES, ClipText, ClipTextConfig
from fmzoo.models.config import (
    AttentionConfig,
    DecoderConfig,
    MlpConfig,
    NormConfig,
    RopeConfig,
    replace,
)
from fmzoo.models.decoder import Decoder
from fmzoo.models.decoding_layout import join_projections, transpose_kernels
from fmzoo.models.denoiser import denoise, make_denoiser
from fmzoo.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from fmzoo.models.dit import DiT, DiTConfig
from fmzoo.models.dit_sharding import DIT_RULES
from fmzoo.models.dropout import dropout
from fmzoo.models.experts_config import ExpertsConfig, LatentConfig
from fmzoo.models.image_accounting import autoencoder_flops, dit_flops, image_model_parameters, mmdit_flops
from fmzoo.models.inspection import Inside, logit_lens, look_inside
from fmzoo.models.lora import init_lora, join, merge, separate
from fmzoo.models.mmdit import MMDiT, MMDiTConfig
from fmzoo.models.pretrained import Pretrained
from fmzoo.models.projection import Lora, Node, project
from fmzoo.models.quantized import (
    BlockKernel,
    Int8Kernel,
    dequantize_params,
    is_quantized,
    quantize,
    quantize_params,
)
from fmzoo.models.reward_model import REWARD_RULES, RewardModel, init_reward_model
from fmzoo.models.sharding import DECODER_RULES, check_mesh
from fmzoo.models.t5 import T5_RULES, T5Config, T5Encoder
from fmzoo.models.text_to_image import TextToImageConfig, encode_prompts
from fmzoo.models.unet import UNet
from fmzoo.models.unet_accounting import unet_flops, unet_parameters
from fmzoo.models.unet_config import UNetConfig
from fmzoo.models.unet_sharding import UNET_RULES

__all__ = [
    "AUTOENCODER_RULES",
    "CLIP_TEXT_RULES",
    "DECODER_RULES",
    "DIT_RULES",
    "REWARD_RULES",
    "T5_RULES",
    "UNET_RULES",
    "AttentionConfig",
    "AutoencoderConfig",
    "AutoencoderKL",
    "BlockKernel",
    "ClipText",
    "ClipTextConfig",
    "Decoder",
    "DecoderConfig",
    "DiT",
    "DiTConfig",
    "DiscriminatorConfig",
    "ExpertsConfig",
    "Inside",
    "Int8Kernel",
    "LatentConfig",
    "Lora",
    "MMDiT",
    "MMDiTConfig",
    "Mask",
    "MlpConfig",
    "Node",
    "NormConfig",
    "PatchDiscriminator",
    "Pretrained",
    "RewardModel",
    "RopeConfig",
    "T5Config",
    "T5Encoder",
    "TextToImageConfig",
    "UNet",
    "UNetConfig",
    "active_parameter_count",
    "attend",
    "attend_cudnn",
    "attend_splash",
    "autoencoder_flops",
    "cache_bytes",
    "check_mesh",
    "denoise",
    "dequantize_params",
    "dit_flops",
    "dropout",
    "encode_prompts",
    "flops_per_token",
    "from_latents",
    "image_model_parameters",
    "init_cache",
    "init_lora",
    "init_reward_model",
    "is_quantized",
    "join",
    "join_projections",
    "logit_lens",
    "look_inside",
    "make_denoiser",
    "matmul_parameters",
    "merge",
    "mmdit_flops",
    "parameter_count",
    "project",
    "quantize",
    "quantize_params",
    "replace",
    "separate",
    "to_latents",
    "transpose_kernels",
    "unet_flops",
    "unet_parameters",
    "unstack",
]
