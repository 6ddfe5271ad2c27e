"""XGLM (arXiv 2112.10668): 30 languages, balanced; 4.5B in 134."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, feed-forward width, layers, heads, parameters
SIZES = {
    "564m": (1024, 4096, 24, 16, 564_463_616),
    "1.7b": (2048, 8192, 24, 16, 1_732_907_008),
    "2.9b": (2048, 8192, 48, 16, 2_941_505_536),
    "4.5b": (2048, 16_384, 48, 16, 4_552_511_488),
    "7.5b": (4096, 16_384, 32, 32, 7_492_771_840),
}


def xglm(size: str) -> DecoderConfig:
    """XGLM: sinusoidal positions from 2, embeddings times the square root of the width, a tied head."""
    width, d_ff, num_layers, heads, _ = SIZES[size]
    return DecoderConfig(
        vocab_size=256_008,
        d_model=width,
        num_layers=num_layers,
        context_length=2048,
        attention=AttentionConfig(heads, heads, width // heads, qkv_bias=True, out_bias=True, dropout=0.1),
        mlp=MlpConfig(d_ff=d_ff, activation="gelu", gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=1e-5, bias=True),
        position="sinusoidal",
        position_offset=2,
        tied_head=True,
        scaled_embedding=True,
        dropout=0.1,
    )


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"xglm-{_size}",
            system=f"XGLM {_size.upper()}",
            config=functools.partial(xglm, _size),
            parameters=_figures[-1],
            sources=(
                "width, layers: arXiv 2112.10668, table 1",
                "heads, feed-forward width: the released config.json",
                COUNTED,
            ),
            public="weights (MIT), architecture, recipe in outline; not the data",
            assumed="nothing in the architecture",
            repository=f"facebook/xglm-{_size.upper()}",
        )
    )
