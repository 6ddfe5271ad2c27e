"""The scale of LoRA weights, where a config tells it: PEFT's `adapter_config.json`, or metadata of diffusers."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from fmzoo.errors import InputError
from fmzoo.interop import safetensors
from fmzoo.text.files import read_json, write_json

CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"  # the key in a safetensors header under which diffusers writes such configs
UNKNOWN = (
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "lora_bias",
    "use_qalora",
    "megatron_config",
    "arrow_config",
)


def read_alphas(path: epath.Path, file: epath.Path) -> Callable[[str, str], Callable[[int], float]]:
    """What gives, for a component and a layer, the scale of a rank; 1 where nothing tells it.

    Args:
      path: the file, or PEFT's folder.
      file: the file.

    Raises:
      InputError: a config asks for a kind of LoRA that is not known here.
    """
    configs: dict[str, Any] = {}
    if path.is_dir() and (path / CONFIG).exists():
        values = read_json(path / CONFIG)
        configs = {"": _checked(values, str(path / CONFIG))}
    elif text := safetensors.read_metadata(file).get(METADATA):
        configs = _by_component(text, file)

    def scale_of(component: str, module: str) -> Callable[[int], float]:
        config = configs.get(component, configs.get("", {}))
        return lambda rank: _scale(config, module, rank)

    return scale_of


def _by_component(text: str, file: epath.Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
        pairs = [(*name.split(".", 1), value) for name, value in values.items()]
        configs: dict[str, dict[str, Any]] = {}
        for component, key, value in pairs:
            configs.setdefault(component, {})[key] = value
    except (ValueError, AttributeError, RecursionError):
        raise InputError(f"{file} has unsound {METADATA}; names such as unet.lora_alpha are needed") from None
    return {component: _checked(config, str(file)) for component, config in configs.items()}


def _checked(config: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    if odd := [name for name in UNKNOWN if config.get(name)]:
        raise InputError(f"{source} has {odd[0]} {str(config[odd[0]])[:60]!r}, a kind of LoRA that is not known here")
    for name in ("alpha_pattern", "rank_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise InputError(f"{source} has {name} {str(config[name])[:60]!r}; an object of layers is needed")
    return config


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """``alpha / r``, or ``alpha / sqrt(r)`` of rank-stabilised LoRA; 1 without an alpha."""
    patterns = config.get("alpha_pattern") or {}
    own = [value for name, value in patterns.items() if module == name or module.endswith(f".{name}")]
    alpha = own[0] if own else config.get("lora_alpha", math.sqrt(rank) if config.get("use_rslora") else rank)
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise InputError(f"the LoRA weights of {module[:80]} have lora_alpha {str(alpha)[:40]!r}; a number is needed")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write_config(path: epath.Path, ranks: Mapping[str, int]) -> None:
    """PEFT's config of adapters whose scale is 1: every layer's alpha is its rank."""
    rank = max(ranks.values())
    others = {module: r for module, r in ranks.items() if r != rank}
    write_json(
        path,
        {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": sorted(ranks),
            "bias": "none",
            "inference_mode": True,
        },
    )
