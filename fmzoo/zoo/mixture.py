"""Mixtral (arXiv 2401.04088), the mixtures of Qwen 3 (2505.09388) and OLMoE (2409.02060)."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, ExpertsConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, an expert's feed-forward width, layers, heads, key-value heads, context, parameters
MIXTRAL = {
    "8x7b": (4096, 14_336, 32, 32, 8, 32_768, 46_702_792_704),
    "8x22b": (6144, 16_384, 56, 48, 8, 65_536, 140_620_634_112),
}
QWEN = {
    "30b-a3b": (2048, 768, 48, 32, 4, 32_768, 30_532_122_624),
    "235b-a22b": (4096, 1536, 94, 64, 4, 32_768, 235_093_634_560),
}
OLMOE = (2048, 1024, 16, 16, 16, 4096, 6_919_161_856)


def mixtral(size: str) -> DecoderConfig:
    """Mixtral: Mistral 7B's block with the best 2 of 8 experts, no window."""
    return _decoder(MIXTRAL[size], 32_000, 1e-5, 1_000_000.0, ExpertsConfig(8, 2, MIXTRAL[size][1]))


def qwen3_moe(size: str) -> DecoderConfig:
    """Qwen 3: norms of queries and keys; the best 8 of 128 narrow experts, none shared."""
    experts = ExpertsConfig(128, 8, QWEN[size][1])
    return _decoder(QWEN[size], 151_936, 1e-6, 1_000_000.0, experts, qk_norm="head")


def olmoe() -> DecoderConfig:
    """OLMoE: norms over all queries and keys; the best 8 of 64 experts, their scores taken as they are."""
    experts = ExpertsConfig(64, 8, OLMOE[1], renormalised=False)
    return _decoder(OLMOE, 50_304, 1e-5, 10_000.0, experts, qk_norm="all")


def _decoder(
    size: tuple[int, ...], vocab_size: int, epsilon: float, theta: float, experts: ExpertsConfig, **attention: object
) -> DecoderConfig:
    width, _, num_layers, heads, kv_heads, context, _ = size
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context,
        attention=AttentionConfig(heads, kv_heads, head_dim=128, **attention),
        mlp=MlpConfig(d_ff=experts.d_ff),
        experts=experts,
        norm=NormConfig(epsilon=epsilon),
        rope=RopeConfig(theta=theta),
    )


for _size, _figures in MIXTRAL.items():
    register(
        Entry(
            name=f"mixtral-{_size}",
            system=f"Mixtral {_size} v0.1".replace("b ", "B "),
            config=functools.partial(mixtral, _size),
            parameters=_figures[-1],
            sources=(
                "sizes, experts, context: arXiv 2401.04088, table 1" if _size == "8x7b" else "sizes: the config.json",
                "theta, norm epsilon: the released config.json",
                COUNTED,
            ),
            public="weights (Apache-2.0), architecture; neither data nor recipe",
            assumed="nothing in the architecture",
            repository=f"mistralai/Mixtral-{_size.replace('b', 'B')}-v0.1",
        )
    )
for _size, _figures in QWEN.items():
    register(
        Entry(
            name=f"qwen3-{_size}",
            system=f"Qwen3-{_size.upper()}",
            config=functools.partial(qwen3_moe, _size),
            parameters=_figures[-1],
            sources=(
                "layers, heads, experts: arXiv 2505.09388, table 2",
                "widths, theta, renormalised scores: the released config.json",
                COUNTED,
            ),
            public="weights (Apache-2.0), architecture, recipe in outline; not the data",
            assumed="a context of 32,768, as pretrained, without the later stretch by YaRN",
            repository=f"Qwen/Qwen3-{_size.upper()}" + ("-Base" if _size == "30b-a3b" else ""),
        )
    )
register(
    Entry(
        name="olmoe-1b-7b",
        system="OLMoE-1B-7B-0924",
        config=olmoe,
        parameters=OLMOE[-1],
        sources=("sizes, experts, norms: arXiv 2409.02060, section 2 and appendix B", COUNTED),
        public="weights, code and data (Apache-2.0), architecture, recipe, logs",
        assumed="nothing in the architecture",
        repository="allenai/OLMoE-1B-7B-0924",
    )
)
