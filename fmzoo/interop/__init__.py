"""Weights in and out: safetensors, the layouts of other projects, and configs as JSON."""

from fmzoo.interop.mapping import (
    AS_IS,
    TRANSPOSED,
    Layout,
    Place,
    Row,
    Structure,
    Table,
    decoder_structure,
    joined,
    to_ours,
    to_theirs,
    torch_linear,
)

__all__ = [
    "AS_IS",
    "TRANSPOSED",
    "Layout",
    "Place",
    "Row",
    "Structure",
    "Table",
    "decoder_structure",
    "joined",
    "to_ours",
    "to_theirs",
    "torch_linear",
]
