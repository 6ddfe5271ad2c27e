"""Weights in and out: safetensors, the layouts of other projects, and configs as JSON."""

from fmzoo.interop.mapping import AS_IS, TRANSPOSED, Layout, Row, Table, joined, to_ours, to_theirs, torch_linear
from fmzoo.interop.structure import Place, Structure, decoder_structure

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
