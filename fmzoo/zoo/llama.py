"""Llama 1, 2, 3, 3.1 and 3.2 (arXiv 2302.13971, 2307.09288, 2407.21783) and Mistral 7B (2310.06825)."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, feed-forward width, layers, heads, key-value heads, parameters
ONE = {
    "7b": (4096, 11_008, 32, 32, 32, 6_738_415_616),
    "13b": (5120, 13_824, 40, 40, 40, 13_015_864_320),
    "33b": (6656, 17_920, 60, 52, 52, 32_528_943_616),
    "65b": (8192, 22_016, 80, 64, 64, 65_285_660_672),
}
TWO = {
    "7b": (4096, 11_008, 32, 32, 32, 6_738_415_616),
    "13b": (5120, 13_824, 40, 40, 40, 13_015_864_320),
    "34b": (8192, 22_016, 48, 64, 8, 33_743_970_304),
    "70b": (8192, 28_672, 80, 64, 8, 68_976_648_192),
}
THREE = {
    "8b": (4096, 14_336, 32, 32, 8, 8_030_261_248),
    "70b": (8192, 28_672, 80, 64, 8, 70_553_706_496),
    "405b": (16_384, 53_248, 126, 128, 8, 405_853_388_800),
}
SMALL = {
    "1b": (2048, 8192, 16, 32, 8, 1_235_814_400),
    "3b": (3072, 8192, 28, 24, 8, 3_212_749_824),
}
MISTRAL = (4096, 14_336, 32, 32, 8, 7_241_732_096)


def llama1(size: str) -> DecoderConfig:
    """Llama: RMSNorm before each half, SwiGLU, rotary positions, no biases, a head of its own."""
    return _decoder(ONE[size], 32_000, 2048, 1e-5 if size == "65b" else 1e-6, 10_000.0)


def llama2(size: str) -> DecoderConfig:
    """Llama 2: twice the context, grouped queries in the two larger sizes."""
    return _decoder(TWO[size], 32_000, 4096, 1e-5, 10_000.0)


def llama3(size: str) -> DecoderConfig:
    """Llama 3: grouped queries in all sizes, four times the vocabulary, a larger theta."""
    return _decoder(THREE[size], 128_256, 8192, 1e-5, 500_000.0)


def llama3_1(size: str) -> DecoderConfig:
    """Llama 3.1: rotary positions stretched by 8."""
    return _decoder(THREE[size], 128_256, 131_072, 1e-5, 500_000.0, stretch=8.0)


def llama3_2(size: str) -> DecoderConfig:
    """Llama 3.2: rotary positions stretched by 32, the head tied to the embeddings."""
    return _decoder(SMALL[size], 128_256, 131_072, 1e-5, 500_000.0, stretch=32.0, tied=True)


def mistral() -> DecoderConfig:
    """Mistral 7B: Llama with grouped queries and a window of 4,096 in every layer."""
    return _decoder(MISTRAL, 32_000, 8192, 1e-5, 10_000.0, window=4096)


def _decoder(
    size: tuple[int, ...],
    vocab_size: int,
    context_length: int,
    epsilon: float,
    theta: float,
    stretch: float | None = None,
    tied: bool = False,
    window: int | None = None,
) -> DecoderConfig:
    width, d_ff, num_layers, num_heads, num_kv_heads, _ = size
    rope = RopeConfig(theta=theta)
    if stretch is not None:
        rope = RopeConfig(theta=theta, scaling="llama3", factor=stretch, original_context=8192)
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context_length,
        attention=AttentionConfig(num_heads, num_kv_heads, head_dim=width // num_heads, window=window),
        mlp=MlpConfig(d_ff=d_ff),
        norm=NormConfig(epsilon=epsilon),
        pattern=("global" if window is None else "local",),
        rope=rope,
        tied_head=tied,
    )


FROM_PARAMS = "norm epsilon, key-value heads: the released params.json"
PUBLIC = "weights (under the publisher's licence), architecture, recipe in outline"

for _size, _figures in ONE.items():
    register(
        Entry(
            name=f"llama1-{_size}",
            system=f"LLaMA {_size.upper()}",
            config=functools.partial(llama1, _size),
            parameters=_figures[-1],
            sources=("width, heads, layers: arXiv 2302.13971, table 2", FROM_PARAMS, COUNTED),
            public=PUBLIC,
            assumed="nothing in the architecture",
            repository=f"huggyllama/llama-{'30b' if _size == '33b' else _size}",
        )
    )
for _size, _figures in TWO.items():
    register(
        Entry(
            name=f"llama2-{_size}",
            system=f"Llama 2 {_size.upper()}",
            config=functools.partial(llama2, _size),
            parameters=_figures[-1],
            sources=(
                "context, grouped queries: arXiv 2307.09288, section 2.2 and appendix A.2.1",
                FROM_PARAMS,
                COUNTED,
            ),
            public="architecture and results only" if _size == "34b" else PUBLIC,
            assumed="the shape of Code Llama 34B" if _size == "34b" else "nothing in the architecture",
            repository=None if _size == "34b" else f"meta-llama/Llama-2-{_size}-hf",
        )
    )
for _version, _make, _sizes in (("3", llama3, ("8b", "70b")), ("3.1", llama3_1, THREE), ("3.2", llama3_2, SMALL)):
    for _size in _sizes:
        register(
            Entry(
                name=f"llama{_version}-{_size}",
                system=f"Llama {_version} {_size.upper()}",
                config=functools.partial(_make, _size),
                parameters=(SMALL if _version == "3.2" else THREE)[_size][-1],
                sources=(
                    "sizes: arXiv 2407.21783, table 3" if _version != "3.2" else "sizes: the released params.json",
                    "rotary scaling: the released config.json",
                    COUNTED,
                ),
                public=PUBLIC,
                assumed="nothing in the architecture",
                repository=f"meta-llama/{'Meta-Llama-3' if _version == '3' else f'Llama-{_version}'}-{_size.upper()}",
            )
        )
register(
    Entry(
        name="mistral-7b",
        system="Mistral 7B v0.1",
        config=mistral,
        parameters=MISTRAL[-1],
        sources=("all sizes, window, context: arXiv 2310.06825, table 1", COUNTED),
        public="weights (Apache-2.0), architecture; neither data nor recipe",
        assumed="nothing in the architecture",
        repository="mistralai/Mistral-7B-v0.1",
    )
)
