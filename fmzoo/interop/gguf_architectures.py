"""The architectures of llama.cpp that are known here, with what sets each apart.

What is not in a file is what llama.cpp takes for granted of its architecture (its `src/models/`): activations, which
layers of Gemma have a window, by what Gemma's scores are divided.
"""

from typing import Any

import numpy as np

from fmzoo.interop.attributes import Attributes
from fmzoo.interop.gguf_names import Architecture

Values = dict[str, Any]
SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}  # layers of the 27B models, whose scores are divided by width / heads


def _read_gemma(a: Attributes, attributes: Values) -> Values:
    return {"hidden_act": "gelu_pytorch_tanh"}


def _read_gemma2(a: Attributes, attributes: Values) -> Values:
    return {
        **_read_windows(a, attributes, "gemma2", 4096, 2),
        "attn_logit_softcapping": a.number("attn_logit_softcapping", optional=True, above=0) or 50.0,
        "final_logit_softcapping": a.number("final_logit_softcapping", optional=True, above=0) or 30.0,
    }


def _read_gemma3(a: Attributes, attributes: Values) -> Values:
    local = a.number("rope.freq_base_swa", optional=True, above=0)
    return {
        **_read_windows(a, attributes, "gemma3", None, 6),
        "rope_local_base_freq": 10_000.0 if local is None else local,
        "final_logit_softcapping": a.number("final_logit_softcapping", optional=True, above=0),
    }


def _read_windows(a: Attributes, attributes: Values, name: str, window: int | None, period: int) -> Values:
    """The layers with a window, and the scale; each ``period``th layer has none."""
    layers = attributes["num_hidden_layers"]
    window = a.integer("attention.sliding_window", optional=True) or window
    pattern = a.take("attention.sliding_window_pattern", int, list, optional=True)
    if not isinstance(pattern, list):
        period = period if pattern is None else pattern
        pattern = [(i + 1) % max(period, 1) != 0 for i in range(layers)]
    if len(pattern) != layers:
        raise a.refuse("attention.sliding_window_pattern", pattern, f"{layers} flags")
    local = [bool(here) and window is not None for here in pattern]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": window,
        "layer_types": ["sliding_attention" if here else "full_attention" for here in local],
        "query_pre_attn_scalar": _scaled_by(attributes, name),
    }


def _scaled_by(attributes: Values, name: str) -> int:
    if attributes["num_hidden_layers"] == SCALED_BY_WIDTH[name]:
        return max(attributes["hidden_size"] // attributes["num_attention_heads"], 1)
    return attributes["head_dim"]


def _write_windows(attributes: Values, period: int) -> Values:
    kinds = attributes["layer_types"]
    if "sliding_attention" not in kinds:
        return {}
    keys: Values = {"attention.sliding_window": attributes["sliding_window"]}
    local = np.array([kind == "sliding_attention" for kind in kinds])
    if (local != (np.arange(1, len(kinds) + 1) % period != 0)).any():
        keys["attention.sliding_window_pattern"] = local
    return keys


def _write_caps(attributes: Values, *names: str) -> Values:
    return {name: float(attributes[name]) for name in names if attributes[name] is not None}


def _write_gemma2(attributes: Values) -> Values:
    caps = _write_caps(attributes, "attn_logit_softcapping", "final_logit_softcapping")
    return _write_windows(attributes, 2) | caps


def _write_gemma3(attributes: Values) -> Values:
    keys = _write_windows(attributes, 6) | _write_caps(attributes, "final_logit_softcapping")
    return keys | {"rope.freq_base_swa": float(attributes["rope_local_base_freq"])}


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("llama", "llama", interleaved=True),
        Architecture("qwen2", "qwen2"),
        Architecture("qwen3", "qwen3"),
        Architecture("olmo2", "olmo2"),
        Architecture("smollm3", "smollm3", interleaved=True),
        Architecture("gemma", "gemma", _read_gemma, offset=True),
        Architecture("gemma2", "gemma2", _read_gemma2, _write_gemma2, offset=True),
        Architecture("gemma3", "gemma3_text", _read_gemma3, _write_gemma3, offset=True),
    )
}
