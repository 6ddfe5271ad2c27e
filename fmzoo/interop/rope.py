"""Rotary positions in configs of transformers, as version 4 spells them and as version 5 does.

Version 4: `rope_theta` and `rope_scaling`. Version 5: one dict `rope_parameters`, for Gemma 3 one for each kind of
layer. Version 5 reads the older spelling too, so that is the one written.
"""

import math
from typing import Any, NamedTuple

from fmzoo.interop.attributes import LARGEST_NUMBER, Attributes
from fmzoo.models import RopeConfig


class Names(NamedTuple):
    """What a family calls theta and the share of a head that turns, and that share if the config does not say.

    None is a family in which all of a head turns.
    """

    theta: str = "rope_theta"
    part: str = "partial_rotary_factor"
    fraction: float | None = None


WHOLE = Names()


def read_rope(attributes: Attributes, context_length: int, names: Names = WHOLE) -> RopeConfig:
    """The rotary positions that all layers share."""
    return _agree(attributes, context_length, attributes.take("rope_parameters", dict, optional=True), names)


def read_ropes(attributes: Attributes, context_length: int) -> tuple[RopeConfig, RopeConfig]:
    """The rotary positions of global and of local layers (Gemma 3)."""
    nested = attributes.take("rope_parameters", dict, optional=True) or {}
    if odd := nested.keys() - {"full_attention", "sliding_attention"}:
        raise attributes.refuse("rope_parameters", sorted(odd)[0], "full_attention and sliding_attention")
    local = RopeConfig(theta=attributes.number("rope_local_base_freq"))
    if nested.get("sliding_attention") is not None:
        local = _parse(attributes, nested["sliding_attention"], local.theta, context_length)
    return _agree(attributes, context_length, nested.get("full_attention")), local


def _agree(
    attributes: Attributes, context_length: int, newer: dict[str, Any] | None, names: Names = WHOLE
) -> RopeConfig:
    """What both spellings say, if both are there."""
    older, theta = attributes.take("rope_scaling", dict, optional=True), attributes.number(names.theta)
    fraction = _fraction(attributes, names.part, names.fraction)
    outer = attributes.integer("original_max_position_embeddings", optional=True)
    spellings = [spelling for spelling in (older, newer) if spelling]
    plain = RopeConfig(theta=theta, fraction=1.0 if fraction is None else fraction)
    found = [_parse(attributes, spelling, theta, context_length, outer, fraction) for spelling in spellings]
    if len(found) == 2 and found[0] != found[1]:
        raise attributes.refuse("rope_scaling", older, "what rope_parameters says")
    return found[0] if found else plain


def _fraction(a: Attributes, name: str, default: float | None) -> float | None:
    """The share of a head that turns; None in a family in which all of it does."""
    if default is None:
        a.demand(name, 1, None)
        return None
    given = a.number(name, optional=True, above=0)
    return default if given is None else given


def _parse(
    outer: Attributes,
    values: Any,
    theta: float,
    context_length: int,
    original: int | None = None,
    fraction: float | None = None,
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
    fraction = _fraction(a, "partial_rotary_factor", fraction)
    if original is not None:
        a.demand("original_max_position_embeddings", original, None)
    readers = {"default": lambda a: {}, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
    readers |= dict.fromkeys(("longrope", "su"), lambda a: _longrope(a, context_length))
    if kind not in readers:
        raise a.refuse("rope_type", kind, " or ".join(readers))
    options = readers[kind](a)
    a.close()
    scaling = {"default": "none", "su": "longrope"}.get(kind, kind)
    return RopeConfig(theta=theta, fraction=1.0 if fraction is None else fraction, scaling=scaling, **options)


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


def _longrope(a: Attributes, context_length: int) -> dict[str, Any]:
    """Transformers takes the long factors in calls of more than the original context; here, a model made for more."""
    original = a.integer("original_max_position_embeddings", least=2)
    factor = a.number("factor", optional=True, above=0)
    return {
        "factor": context_length / original if factor is None else factor,
        "original_context": original,
        "attention_factor": a.number("attention_factor", optional=True),
        "stretched": context_length > original,
        "short_factors": _factors(a, "short_factor"),
        "long_factors": _factors(a, "long_factor"),
    }


def _factors(a: Attributes, name: str) -> tuple[float, ...]:
    given = a.take(name, list)
    if not given or not all(type(x) in (int, float) and 0 < x < LARGEST_NUMBER for x in given):
        raise a.refuse(name, given, "a list of numbers above 0")
    return tuple(map(float, given))


def write_rope(rope: RopeConfig) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`; partial and interleaved rotation are lost, which these families do not know."""
    scaling: dict[str, Any] | None = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "longrope":  # the factor is what the lengths say
        factors = {"short_factor": list(rope.short_factors), "long_factor": list(rope.long_factors)}
        scaling = {"rope_type": "longrope", "original_max_position_embeddings": rope.original_context} | factors
    if rope.scaling in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original_context
    if rope.scaling == "llama3":
        scaling |= {"low_freq_factor": rope.low_frequency_factor, "high_freq_factor": rope.high_frequency_factor}
    if rope.scaling == "yarn":
        scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
    if rope.scaling in ("yarn", "longrope") and rope.attention_factor is not None:
        scaling["attention_factor"] = rope.attention_factor
    outer = {"original_max_position_embeddings": rope.original_context} if rope.scaling == "longrope" else {}
    return {"rope_theta": rope.theta, "rope_scaling": None if rope.scaling == "none" else scaling} | outer
