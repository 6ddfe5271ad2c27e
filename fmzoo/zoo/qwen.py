"""Qwen 2.5 and Qwen 3, dense (arXiv 2412.15115, 2505.09388)."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, feed-forward width, layers, heads, key-value heads, head width, vocabulary, parameters
TWO = {
    "0.5b": (896, 4864, 24, 14, 2, 64, 151_936, 494_032_768),
    "1.5b": (1536, 8960, 28, 12, 2, 128, 151_936, 1_543_714_304),
    "3b": (2048, 11_008, 36, 16, 2, 128, 151_936, 3_085_938_688),
    "7b": (3584, 18_944, 28, 28, 4, 128, 152_064, 7_615_616_512),
    "14b": (5120, 13_824, 48, 40, 8, 128, 152_064, 14_770_033_664),
    "32b": (5120, 27_648, 64, 40, 8, 128, 152_064, 32_763_876_352),
    "72b": (8192, 29_568, 80, 64, 8, 128, 152_064, 72_706_203_648),
}
THREE = {
    "0.6b": (1024, 3072, 28, 16, 8, 128, 151_936, 596_049_920),
    "1.7b": (2048, 6144, 28, 16, 8, 128, 151_936, 1_720_574_976),
    "4b": (2560, 9728, 36, 32, 8, 128, 151_936, 4_022_468_096),
    "8b": (4096, 12_288, 36, 32, 8, 128, 151_936, 8_190_735_360),
    "14b": (5120, 17_408, 40, 40, 8, 128, 151_936, 14_768_307_200),
    "32b": (5120, 25_600, 64, 64, 8, 128, 151_936, 32_762_123_264),
}


def qwen2_5(size: str) -> DecoderConfig:
    """Qwen 2.5: biases on queries, keys and values; the head tied up to 3B."""
    small = size in ("0.5b", "1.5b", "3b")
    epsilon = 1e-5 if size in ("14b", "32b", "72b") else 1e-6
    return _decoder(TWO[size], 32_768 if small else 131_072, epsilon, small, qkv_bias=True)


def qwen3(size: str) -> DecoderConfig:
    """Qwen 3: norms of queries and keys instead of biases; the head tied up to 4B."""
    return _decoder(THREE[size], 32_768, 1e-6, size in ("0.6b", "1.7b", "4b"), qk_norm="head")


def _decoder(
    size: tuple[int, ...], context_length: int, epsilon: float, tied: bool, **attention: object
) -> DecoderConfig:
    width, d_ff, num_layers, heads, kv_heads, head_dim, vocab_size, _ = size
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context_length,
        attention=AttentionConfig(heads, kv_heads, head_dim, **attention),
        mlp=MlpConfig(d_ff=d_ff),
        norm=NormConfig(epsilon=epsilon),
        rope=RopeConfig(theta=1_000_000.0),
        tied_head=tied,
    )


for _size, _figures in TWO.items():
    register(
        Entry(
            name=f"qwen2.5-{_size}",
            system=f"Qwen2.5-{_size.upper()}",
            config=functools.partial(qwen2_5, _size),
            parameters=_figures[-1],
            sources=(
                "heads, layers, tying: arXiv 2412.15115, table 1",
                "widths, epsilon: the base's config.json",
                COUNTED,
            ),
            public="weights, architecture, recipe in outline; not the data",
            assumed="epsilon of the 32b base" if _size in ("14b", "72b") else "nothing in the architecture",
            repository=f"Qwen/Qwen2.5-{_size.upper()}",
        )
    )
for _size, _figures in THREE.items():
    register(
        Entry(
            name=f"qwen3-{_size}",
            system=f"Qwen3-{_size.upper()}",
            config=functools.partial(qwen3, _size),
            parameters=_figures[-1],
            sources=(
                "heads, layers, tying: arXiv 2505.09388, table 1",
                "widths, theta: the released config.json",
                COUNTED,
            ),
            public="weights (Apache-2.0), architecture, recipe in outline; not the data",
            assumed="a context of 32,768, as pretrained, without the later stretch by YaRN",
            repository=f"Qwen/Qwen3-{_size.upper()}" + ("" if _size == "32b" else "-Base"),
        )
    )
