"""Stretched rotary positions in GGUF: keys for linear and YaRN, a tensor of factors for Llama 3's."""

import math
from typing import Any

import numpy as np

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.models import RopeConfig
from fmzoo.models.positions import rope_frequencies

FACTORS = "rope_freqs.weight"  # by which each frequency is divided, [H / 2]
LLAMA3 = {"original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}  # as published


def narrow(number: float) -> float:
    """A number with the digits that float32 holds for sure."""
    return float(f"{number:.6g}")


def read_scaling(a: Attributes) -> dict[str, Any] | None:
    """`rope_scaling` from the keys of an architecture."""
    kind = a.take("rope.scaling.type", str, optional=True)
    old, factor = (
        a.number("rope.scale_linear", optional=True, above=0),
        a.number("rope.scaling.factor", optional=True, above=0),
    )
    a.take("rope.scaling.finetuned", bool, optional=True)
    original = a.integer("rope.scaling.original_context_length", optional=True)
    multiplier = a.number("rope.scaling.attn_factor", optional=True, above=0)
    ramp = {
        f"beta_{side}": a.number(f"rope.scaling.yarn_beta_{side}", optional=True, above=0) for side in ("fast", "slow")
    }
    factor = factor or old or 1.0
    if kind == "yarn":
        scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        if multiplier is not None and multiplier != 1:
            scaling["attention_factor"] = narrow(multiplier * (0.1 * math.log(factor) + 1))
        return scaling | {name: value for name, value in ramp.items() if value is not None}
    if kind in (None, "none", "linear"):
        return None if factor == 1 or kind == "none" else {"rope_type": "linear", "factor": factor}
    raise a.refuse("rope.scaling.type", kind, "none, linear or yarn")


def write_scaling(scaling: dict[str, Any] | None) -> dict[str, Any]:
    """The keys for `rope_scaling`; Llama 3's has none, but a tensor."""
    if scaling is None or scaling["rope_type"] == "llama3":
        return {}
    keys = {"rope.scaling.type": scaling["rope_type"], "rope.scaling.factor": float(scaling["factor"])}
    if scaling["rope_type"] == "yarn":
        keys["rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"]
        keys |= {f"rope.scaling.yarn_{name}": float(scaling[name]) for name in ("beta_fast", "beta_slow")}
        if scaling.get("attention_factor") is not None:
            default = 0.1 * math.log(scaling["factor"]) + 1
            keys["rope.scaling.attn_factor"] = scaling["attention_factor"] / default
    return keys


def read_factors(factors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any]:
    """`rope_scaling` of Llama 3 from the tensor of factors.

    Raises:
      InputError: the factors are not those of the published blend.
    """
    scaling = LLAMA3 | {"rope_type": "llama3", "factor": float(np.max(factors, initial=1.0))}
    if not np.isfinite(factors).all() or not np.allclose(factors, make_factors(scaling, theta, head_dim), rtol=1e-4):
        raise InputError(f"{FACTORS} holds factors that are not Llama 3's of context 8192; no others are known")
    return scaling


def make_factors(scaling: dict[str, Any], theta: float, head_dim: int) -> np.ndarray:
    """The tensor of factors for Llama 3's `rope_scaling`, ``float32[H / 2]``."""
    config = RopeConfig(
        theta=theta,
        scaling="llama3",
        factor=scaling["factor"],
        original_context=scaling["original_max_position_embeddings"],
        low_frequency_factor=scaling["low_freq_factor"],
        high_frequency_factor=scaling["high_freq_factor"],
    )
    plain = rope_frequencies(RopeConfig(theta=theta), head_dim)[0]
    return (plain / rope_frequencies(config, head_dim)[0]).astype(np.float32)
