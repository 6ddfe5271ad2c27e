"""DeepSeek-V2 and V2-Lite (arXiv 2405.04434), and DeepSeek-V3 (2412.19437)."""

import functools
import math

from fmzoo.models import AttentionConfig, DecoderConfig, ExpertsConfig, LatentConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, dense feed-forward width, layers, heads, vocabulary, queries' latent, YaRN's mscale, parameters
SIZES = {
    "v2-lite": (2048, 10_944, 27, 16, 102_400, None, 0.707, 15_706_484_224),
    "v2": (5120, 12_288, 60, 128, 102_400, 1536, 1.0, 235_741_434_880),
    "v3": (7168, 18_432, 61, 128, 129_280, 1536, 1.0, 671_026_419_200),
}
EXPERTS = {
    "v2-lite": ExpertsConfig(64, 6, 1408, 1, renormalised=False, shared_d_ff=2 * 1408),
    "v2": ExpertsConfig(160, 6, 1536, 1, renormalised=False, scale=16.0, groups=8, top_groups=3, shared_d_ff=2 * 1536),
    "v3": ExpertsConfig(
        256, 8, 2048, 3, scores="sigmoid", scale=2.5, groups=8, top_groups=4, group_score="top2", selection_bias=True,
        shared_d_ff=2048,
    ),
}  # fmt: skip
FACTOR = 40.0  # by which YaRN stretches a context of 4,096


def deepseek(size: str) -> DecoderConfig:
    """Latent attention, dense first layers, then experts, some shared; rotary positions stretched from 4,096."""
    width, d_ff, num_layers, heads, vocab_size, q_rank, mscale, _ = SIZES[size]
    experts, stretch = EXPERTS[size], 0.1 * mscale * math.log(FACTOR) + 1
    latent = LatentConfig(kv_rank=512, q_rank=q_rank, rope_dim=64, value_dim=128)
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=163_840,
        attention=AttentionConfig(heads, heads, head_dim=192, scale=192**-0.5 * stretch**2, latent=latent),
        mlp=MlpConfig(d_ff=d_ff),
        experts=experts,
        norm=NormConfig(epsilon=1e-6),
        prefix=("global",) * experts.dense_layers,
        rope=RopeConfig(interleaved=True, scaling="yarn", factor=FACTOR, original_context=4096, attention_factor=1.0),
    )


for _size, _figures in SIZES.items():
    _third = _size == "v3"
    register(
        Entry(
            name=f"deepseek-{_size}",
            system=f"DeepSeek-{_size.title()}",
            config=functools.partial(deepseek, _size),
            parameters=_figures[-1],
            sources=(
                f"sizes, experts: arXiv {'2412.19437, section 4.2' if _third else '2405.04434, section 3.1.2'}"
                + (" and appendix B" if _size == "v2-lite" else ""),
                "rotary scaling, norm epsilon, vocabulary: the released config.json",
                COUNTED + (" without its layer that predicts a second token" if _third else ""),
            ),
            public="weights (under the publisher's licence), architecture, recipe in outline; not the data",
            assumed="weights in float: the release stores blocks of 8 bits"
            if _third
            else "nothing in the architecture",
            repository=f"deepseek-ai/DeepSeek-{_size.title()}" + ("-Base" if _third else ""),
        )
    )
