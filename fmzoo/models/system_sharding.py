"""How a whole system is split: each component by the rules of its own kind."""

import re
from typing import Any

from fmzoo.models.autoencoder import AutoencoderConfig
from fmzoo.models.autoencoder_sharding import AUTOENCODER_RULES
from fmzoo.models.clip_text import CLIP_TEXT_RULES, ClipTextConfig
from fmzoo.models.config import DecoderConfig
from fmzoo.models.dit import DiTConfig
from fmzoo.models.dit_sharding import DIT_RULES
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.sharding import DECODER_RULES
from fmzoo.models.t5 import T5_RULES, T5Config
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.models.unet_config import UNetConfig
from fmzoo.models.unet_sharding import UNET_RULES
from fmzoo.parallel import Rules

RULES = {
    DecoderConfig: DECODER_RULES,
    AutoencoderConfig: AUTOENCODER_RULES,
    UNetConfig: UNET_RULES,
    DiTConfig: DIT_RULES,
    MMDiTConfig: DIT_RULES,
    ClipTextConfig: CLIP_TEXT_RULES,
    T5Config: T5_RULES,
}


def system_rules(config: TextToImageConfig) -> Rules:
    """The rules of parameters ``{component: params}``, trained ones, frozen ones and adapters alike.

    Args:
      config: of the system; its components' sizes must divide by the mesh, which `fmzoo.parallel.spec_of` checks.
    """
    parts = {"denoiser": RULES[type(config.denoiser)], "autoencoder": AUTOENCODER_RULES}
    parts |= {name: RULES[type(encoder)] for name, encoder in config.encoders.items()}
    table, axes = [], {}
    for name, rules in parts.items():
        table += [(f"{re.escape(name)}/(?:{row})", tuple(f"{name}/{axis}" if axis else None for axis in row_axes))
                  for row, row_axes in rules.table]  # fmt: skip
        axes |= {f"{name}/{axis}": place for axis, place in rules.axes.items()}
    return Rules(tuple(table), axes)


def family_rules(config: Any) -> Rules | None:
    """The rules of the parameters of a config's model, or of all parts of a system; None has none."""
    return system_rules(config) if isinstance(config, TextToImageConfig) else RULES.get(type(config))
