"""Rotary positions in configs of transformers, as version 4 spells them and as version 5 does.

Version 4: `rope_theta` and `rope_scaling`. Version 5: one dict `rope_parameters`, for Gemma 3 one for each kind of
layer. Version 5 reads the older spelling too, so that is the one written.
"""

import math
from typing import Any

from fmzoo.interop.attributes import Attributes
from fmzoo.models import RopeConfig


def read_rope(attributes: Attributes, context_length: int) -> RopeConfig:
    """The rotary positions that all layers share."""
    return _agree(attributes, context_length, attributes.take("rope_parameters", dict, optional=True))


def read_ropes(attributes: Attributes, context_length: int) -> tuple[RopeConfig, RopeConfig]:
    """The rotary positions of global and of local layers (Gemma 3)."""
    nested = attributes.take("rope_parameters", dict, optional=True) or {}
    if odd := nested.keys() - {"full_attention", "sliding_attention"}:
        raise attributes.refuse("rope_parameters", sorted(odd)[0], "full_attention and sliding_attention")
    local = RopeConfig(theta=attributes.number("rope_local_base_freq"))
    if nested.get("sliding_attention") is not None:
        local = _parse(attributes, nested["sliding_attention"], local.theta, context_length)
    return _agree(attributes, context_length, nested.get("full_attention")), local


def _agree(attributes: Attributes, context_length: int, newer: dict[str, Any] | None) -> RopeConfig:
    """What both spellings say, if both are there."""
    older, theta = attributes.take("rope_scaling", dict, optional=True), attributes.number("rope_theta")
    attributes.demand("partial_rotary_factor", 1, None)
    outer = attributes.integer("original_max_position_embeddings", optional=True)
    found = [_parse(attributes, spelling, theta, context_length, outer) for spelling in (older, newer) if spelling]
    if len(found) == 2 and found[0] != found[1]:
        raise attributes.refuse("rope_scaling", older, "what rope_parameters says")
    return found[0] if found else RopeConfig(theta=theta)


def _parse(
    outer: Attributes, values: Any, theta: float, context_length: int, original: int | None = None
) -> RopeConfig:
    """One spelling; ``original`` is the pretrained context if the config has it outside of the dict."""
    if not isinstance(values, dict):
        raise outer.refuse("rope_parameters", values, "a dict")
    defaults = {
        "rope_theta": theta, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": original or context_length,
    }  # fmt: skip
    a = Attributes(values, defaults, f"the rope of {outer.source}")
    theta, kind = a.number("rope_theta"), a.take("type", str, optional=True)
    kind = a.take("rope_type", str, optional=True) or kind or "default"
    a.demand("partial_rotary_factor", 1, None)
    if original is not None:
        a.demand("original_max_position_embeddings", original, None)
    readers = {"default": lambda a: {}, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
    if kind not in readers:
        raise a.refuse("rope_type", kind, " or ".join(readers))
    options = readers[kind](a)
    a.close()
    return RopeConfig(theta=theta, scaling="none" if kind == "default" else kind, **options)


def _linear(a: Attributes) -> dict[str, Any]:
    return {"factor": a.number("factor")}


def _llama3(a: Attributes) -> dict[str, Any]:
    return {
        "factor": a.number("factor"),
        "original_context": a.integer("original_max_position_embeddings"),
        "low_frequency_factor": a.number("low_freq_factor"),
        "high_frequency_factor": a.number("high_freq_factor"),
    }


def _yarn(a: Attributes) -> dict[str, Any]:
    a.demand("truncate", True, None)
    factor, given = a.number("factor"), a.number("attention_factor", optional=True)
    mscale, over = a.number("mscale", optional=True), a.number("mscale_all_dim", optional=True)
    if given is None and mscale and over and factor > 1:
        given = (0.1 * mscale * math.log(factor) + 1) / (0.1 * over * math.log(factor) + 1)
    return {
        "factor": factor,
        "original_context": a.integer("original_max_position_embeddings"),
        "beta_fast": a.number("beta_fast"),
        "beta_slow": a.number("beta_slow"),
        "attention_factor": given,
    }


def write_rope(rope: RopeConfig) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`; partial and interleaved rotation are lost, which these families do not know."""
    scaling: dict[str, Any] | None = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original_context
    if rope.scaling == "llama3":
        scaling |= {"low_freq_factor": rope.low_frequency_factor, "high_freq_factor": rope.high_frequency_factor}
    if rope.scaling == "yarn":
        scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        if rope.attention_factor is not None:
            scaling["attention_factor"] = rope.attention_factor
    return {"rope_theta": rope.theta, "rope_scaling": None if rope.scaling == "none" else scaling}
