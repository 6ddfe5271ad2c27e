"""OPT (arXiv 2205.01068): GPT-3's sizes, released."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, layers, heads, parameters
SIZES = {
    "125m": (768, 12, 12, 125_239_296),
    "350m": (1024, 24, 16, 331_196_416),
    "1.3b": (2048, 24, 32, 1_315_758_080),
    "2.7b": (2560, 32, 32, 2_651_596_800),
    "6.7b": (4096, 32, 32, 6_658_473_984),
    "13b": (5120, 40, 40, 12_853_473_280),
    "30b": (7168, 48, 56, 29_974_540_288),
    "66b": (9216, 64, 72, 65_719_701_504),
}


def opt(size: str) -> DecoderConfig:
    """OPT: ReLU, biases everywhere, learned positions from row 2 of their table, a tied head.

    350M alone has embeddings of 512, norms after the sums, and no norm at the end.
    """
    width, num_layers, heads, _ = SIZES[size]
    odd = size == "350m"
    return DecoderConfig(
        vocab_size=50_272,
        d_model=width,
        num_layers=num_layers,
        context_length=2048,
        attention=AttentionConfig(heads, heads, width // heads, qkv_bias=True, out_bias=True),
        mlp=MlpConfig(d_ff=4 * width, activation="relu", gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=1e-5, bias=True, placement="residual" if odd else "pre"),
        position="learned",
        position_offset=2,
        tied_head=True,
        final_norm=not odd,
        embed_dim=512 if odd else None,
        dropout=0.1,
    )


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"opt-{_size}",
            system=f"OPT {_size.upper()}",
            config=functools.partial(opt, _size),
            parameters=_figures[-1],
            sources=(
                "width, layers, heads: arXiv 2205.01068, table 1",
                "width of embeddings, place of norms: the released config.json",
                COUNTED,
            ),
            public="weights (under Meta's licence), code, logbook, recipe; not the data as one set",
            assumed="nothing in the architecture",
            repository=f"facebook/opt-{_size}",
        )
    )
