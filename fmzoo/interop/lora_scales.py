"""The scale of LoRA weights, where a config tells it: PEFT's `adapter_config.json`, or metadata of diffusers."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from fmzoo.errors import InputError
from fmzoo.interop import safetensors
from fmzoo.text.files import read_json, write_json

CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"  # the key in a safetensors header under which diffusers writes such configs
# Of PEFT's config: what changes nothing that the tensors do not tell, the scale, and what has one value that is known.
TOLD = (
    "r", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "fan_in_fan_out",
)  # fmt: skip
SCALE = ("lora_alpha", "alpha_pattern", "use_rslora")
TRAINING = (
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version",
    "lora_dropout", "megatron_core", "loftq_config", "eva_config", "corda_config", "runtime_config", "velora_config",
    "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
ONLY = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal")}
LONGEST_PATTERN = 200


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
    known = {*TOLD, *SCALE, *TRAINING}
    for name, value in config.items():
        if value and name not in known and value not in ONLY.get(name, ()):
            raise InputError(f"{source} has {name[:60]} {str(value)[:60]!r}, a kind of LoRA that is not known here")
    for name in ("alpha_pattern", "rank_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise InputError(f"{source} has {name} {str(config[name])[:60]!r}; an object of layers is needed")
    for pattern in config.get("alpha_pattern") or {}:
        _check_pattern(pattern, source)
    return config


def _check_pattern(pattern: str, source: str) -> None:
    """Refuses a regular expression that could take long: a repeated group, or more than two repetitions."""
    slow = re.search(r"\)[*+{?]", pattern) or sum(pattern.count(sign) for sign in "*+{") > 2
    if slow or len(pattern) > LONGEST_PATTERN:
        raise InputError(
            f"{source} has the alpha_pattern {pattern[:60]!r}; a layer's name, or a pattern of at most "
            f"{LONGEST_PATTERN} characters and two repetitions, is needed"
        )
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        raise InputError(f"{source} has the alpha_pattern {pattern[:60]!r}; a regular expression is needed") from None


def _fits(pattern: str, module: str) -> bool:
    """Whether a pattern stands for a layer, or for an end of its name that follows a dot, as PEFT has it."""
    starts = [0, *(found.end() for found in re.finditer(r"\.", module))]
    return any(re.compile(pattern).fullmatch(module, start) for start in starts)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """``alpha / r``, or ``alpha / sqrt(r)`` of rank-stabilised LoRA; 1 without an alpha."""
    own = [value for pattern, value in (config.get("alpha_pattern") or {}).items() if _fits(pattern, module)]
    alpha = own[0] if own else config.get("lora_alpha", math.sqrt(rank) if config.get("use_rslora") else rank)
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise InputError(f"the LoRA weights of {module[:80]} have lora_alpha {str(alpha)[:40]!r}; a number is needed")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write_config(
    path: epath.Path, ranks: Mapping[str, int], inputs_first: bool = False, task: str | None = None
) -> None:
    """PEFT's config of adapters whose scale is 1: every layer's alpha is its rank.

    Args:
      path: of the file.
      ranks: of each layer, by its name.
      inputs_first: whether the base's kernels lie as ``[in, out]``.
      task: PEFT's name of what the base is for.
    """
    rank = max(ranks.values())
    others = {module: r for module, r in ranks.items() if r != rank}
    write_json(
        path,
        {
            "peft_type": "LORA",
            "task_type": task,
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": sorted(ranks),
            "fan_in_fan_out": inputs_first,
            "bias": "none",
            "inference_mode": True,
        },
    )
