"""Models as pure functions: Linen modules over plain trees, with the frozen configs that know their size."""

from fmzoo.models.accounting import flops_per_token, matmul_parameters, parameter_count
from fmzoo.models.attention import Mask, attend, attend_cudnn, attend_splash
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL, from_latents, to_latents
from fmzoo.models.cache import cache_bytes, init_cache, unstack
from fmzoo.models.config import (
    AttentionConfig,
    DecoderConfig,
    MlpConfig,
    NormConfig,
    RopeConfig,
    replace,
)
from fmzoo.models.decoder import Decoder
from fmzoo.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from fmzoo.models.dit import DiT, DiTConfig
from fmzoo.models.dropout import dropout
from fmzoo.models.lora import init_lora, join, merge
from fmzoo.models.mmdit import MMDiT, MMDiTConfig
from fmzoo.models.pretrained import Pretrained
from fmzoo.models.projection import Lora, Node, join_projections, project
from fmzoo.models.sharding import DECODER_RULES, check_mesh

__all__ = [
    "AttentionConfig",
    "AutoencoderConfig",
    "AutoencoderKL",
    "DECODER_RULES",
    "Decoder",
    "DecoderConfig",
    "DiT",
    "DiTConfig",
    "DiscriminatorConfig",
    "Lora",
    "MMDiT",
    "MMDiTConfig",
    "Mask",
    "MlpConfig",
    "Node",
    "NormConfig",
    "PatchDiscriminator",
    "Pretrained",
    "RopeConfig",
    "attend",
    "attend_cudnn",
    "attend_splash",
    "cache_bytes",
    "check_mesh",
    "dropout",
    "flops_per_token",
    "from_latents",
    "init_cache",
    "join_projections",
    "init_lora",
    "join",
    "matmul_parameters",
    "merge",
    "parameter_count",
    "project",
    "replace",
    "to_latents",
    "unstack",
]
