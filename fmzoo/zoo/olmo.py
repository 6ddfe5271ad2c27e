"""OLMo 2 (arXiv 2501.00656)."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, feed-forward width, layers, heads, key-value heads, parameters, repository
SIZES = {
    "1b": (2048, 8192, 16, 16, 16, 1_484_916_736, "allenai/OLMo-2-0425-1B"),
    "7b": (4096, 11_008, 32, 32, 32, 7_298_617_344, "allenai/OLMo-2-1124-7B"),
    "13b": (5120, 13_824, 40, 40, 40, 13_716_198_400, "allenai/OLMo-2-1124-13B"),
    "32b": (5120, 27_648, 64, 40, 8, 32_234_279_936, "allenai/OLMo-2-0325-32B"),
}


def olmo2(size: str) -> DecoderConfig:
    """OLMo 2: RMSNorm after each half instead of before, and over all queries and all keys of a token."""
    width, d_ff, num_layers, heads, kv_heads, _, _ = SIZES[size]
    return DecoderConfig(
        vocab_size=100_352,
        d_model=width,
        num_layers=num_layers,
        context_length=4096,
        attention=AttentionConfig(heads, kv_heads, width // heads, qk_norm="all"),
        mlp=MlpConfig(d_ff=d_ff),
        norm=NormConfig(epsilon=1e-6, placement="post"),
        rope=RopeConfig(theta=500_000.0),
    )


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"olmo2-{_size}",
            system=f"OLMo 2 {_size.upper()}",
            config=functools.partial(olmo2, _size),
            parameters=_figures[5],
            sources=(
                "width, layers, heads, norms, theta: arXiv 2501.00656, table 1 and section 2",
                "feed-forward width, vocabulary: the released config.json",
                COUNTED,
            ),
            public="weights (Apache-2.0), every checkpoint, code, data, recipe",
            assumed="nothing in the architecture",
            repository=_figures[6],
        )
    )
