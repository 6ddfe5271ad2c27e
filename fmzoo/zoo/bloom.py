"""BLOOM (arXiv 2211.05100): 46 natural and 13 programming languages."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, layers, heads, parameters, repository
SIZES = {
    "560m": (1024, 24, 16, 559_214_592, "bigscience/bloom-560m"),
    "1.1b": (1536, 24, 16, 1_065_314_304, "bigscience/bloom-1b1"),
    "1.7b": (2048, 24, 16, 1_722_408_960, "bigscience/bloom-1b7"),
    "3b": (2560, 30, 32, 3_002_557_440, "bigscience/bloom-3b"),
    "7.1b": (4096, 30, 32, 7_069_016_064, "bigscience/bloom-7b1"),
    "176b": (14_336, 70, 112, 176_247_271_424, "bigscience/bloom"),
}


def bloom(size: str) -> DecoderConfig:
    """BLOOM: ALiBi, a norm right after the embeddings, GELU by tanh, biases everywhere, a tied head."""
    width, num_layers, heads, _, _ = SIZES[size]
    return DecoderConfig(
        vocab_size=250_880,
        d_model=width,
        num_layers=num_layers,
        context_length=2048,
        attention=AttentionConfig(heads, heads, width // heads, qkv_bias=True, out_bias=True),
        mlp=MlpConfig(d_ff=4 * width, activation="gelu_tanh", gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=1e-5, bias=True),
        position="alibi",
        tied_head=True,
        embed_norm=True,
    )


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"bloom-{_size}",
            system=f"BLOOM {_size.upper()}",
            config=functools.partial(bloom, _size),
            parameters=_figures[3],
            sources=(
                "width, layers, heads, vocabulary: arXiv 2211.05100, table 3",
                COUNTED,
            ),
            public="weights (RAIL licence), code, recipe; much of the data",
            assumed="nothing in the architecture",
            repository=_figures[4],
        )
    )
