"""Whether two configs stand for the same network."""

import dataclasses
from typing import Any

from fmzoo.models import DecoderConfig, ExpertsConfig, RopeConfig, replace

SCALED_BY = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_context", "low_frequency_factor", "high_frequency_factor"),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "attention_factor"),
    "longrope": ("factor", "original_context", "attention_factor", "short_factors", "long_factors", "stretched"),
}


def differences(one: DecoderConfig, other: DecoderConfig) -> list[str]:
    """The fields, by their path, in which two configs differ so far that the same weights give other logits."""
    one, other = (
        _flat(dataclasses.asdict(_network(config))) | {"experts.dense_layers": config.dense_layers}
        for config in (one, other)
    )
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _network(c: DecoderConfig) -> DecoderConfig:
    """The config with the defaults wherever a field changes no logit: how it is computed, dropout, how layers group."""
    a, local = c.attention, "local" in c.kinds
    rope, local_rope = c.rope, (c.local_rope or c.rope) if local else None
    if c.position != "rope":
        rope, local_rope = RopeConfig(), None
    return replace(
        c,
        prefix=(),
        pattern=c.kinds,
        position_offset=c.position_offset if c.position in ("learned", "sinusoidal") else 0,
        rope=_rope(rope) if "global" in c.kinds else RopeConfig(),
        local_rope=local_rope and _rope(local_rope),
        dropout=0.0,
        dtype="float32",
        layers="scan",
        remat="none",
        transposed_inputs=False,
        mlp=dataclasses.replace(c.mlp, d_ff=c.experts.d_ff) if c.experts and not c.dense_layers else c.mlp,
        experts=c.experts and _experts(c.experts),
        attention=dataclasses.replace(
            a,
            scale=a.head_dim**-0.5 if a.scale is None else a.scale,
            window=a.window if local else None,
            dropout=0.0,
            implementation="xla",
        ),
    )


def _experts(experts: ExpertsConfig) -> ExpertsConfig:
    choice = {"top_groups": 1, "group_score": "max"} if experts.groups == 1 else {}
    return dataclasses.replace(experts, form="grouped", dense_layers=0, **choice)


def _rope(rope: RopeConfig) -> RopeConfig:
    used = ("theta", "fraction", "interleaved", "scaling", *SCALED_BY[rope.scaling])
    return RopeConfig(**{name: getattr(rope, name) for name in used})


def _flat(values: dict[str, Any], start: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{start}{name}.") if isinstance(value, dict) else {start + name: value}
    return flat
