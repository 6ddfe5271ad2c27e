"""Models as pure functions: Linen modules over plain trees, with the frozen configs that know their size."""

from fmzoo.models.attention import Mask, attend, attend_cudnn, attend_splash
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
from fmzoo.models.dropout import dropout
from fmzoo.models.pretrained import Pretrained
from fmzoo.models.projection import Lora, Node, project

__all__ = [
    "AttentionConfig",
    "Decoder",
    "DecoderConfig",
    "Lora",
    "Mask",
    "MlpConfig",
    "Node",
    "NormConfig",
    "Pretrained",
    "RopeConfig",
    "attend",
    "attend_cudnn",
    "attend_splash",
    "cache_bytes",
    "dropout",
    "init_cache",
    "project",
    "replace",
    "unstack",
]
