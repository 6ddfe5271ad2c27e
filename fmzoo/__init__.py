"""fmzoo: foundation models as pure functions in JAX and Flax."""

from typing import Any

__version__ = "0.1.0"

_LAZY = {**dict.fromkeys(("load", "save", "convert"), "fmzoo.pretrained"), "Pretrained": "fmzoo.models"}
_ROOMS = (
    "data", "diffusion", "evals", "generate", "interop", "models", "objectives", "parallel", "prompts", "stages",
    "text", "train", "zoo",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"fmzoo.{name}")
    raise AttributeError(f"module 'fmzoo' has no attribute {name!r}")
