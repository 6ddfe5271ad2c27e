"""Weights in and out: safetensors, the layouts of other projects, and configs as JSON."""

from fmzoo.interop.layouts import AS_IS, CONVOLUTION, POINTWISE, TRANSPOSED, Layout, joined
from fmzoo.interop.mapping import (
    Row,
    Table,
    to_ours,
    to_theirs,
    torch_convolution,
    torch_linear,
    torch_norm,
)
from fmzoo.interop.structure import Place, Structure, decoder_structure

__all__ = [
    "AS_IS",
    "CONVOLUTION",
    "POINTWISE",
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
    "torch_convolution",
    "torch_linear",
    "torch_norm",
]
