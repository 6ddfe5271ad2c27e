"""Phi 1, 1.5, 2, 3, 3.5 and 4 (arXiv 2306.11644, 2309.05463, 2404.14219, 2412.08905)."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# name: width, feed-forward width, layers, heads, key-value heads, vocabulary, context, parameters, repository
SMALL = {
    "phi1-1.3b": (2048, 8192, 24, 32, 32, 51_200, 2048, 1_418_270_720, "microsoft/phi-1"),
    "phi1.5-1.3b": (2048, 8192, 24, 32, 32, 51_200, 2048, 1_418_270_720, "microsoft/phi-1_5"),
    "phi2-2.7b": (2560, 10_240, 32, 32, 32, 51_200, 2048, 2_779_683_840, "microsoft/phi-2"),
}
LARGE = {
    "phi3-3.8b": (3072, 8192, 32, 32, 32, 32_064, 4096, 3_821_079_552, "microsoft/Phi-3-mini-4k-instruct"),
    "phi3-14b": (5120, 17_920, 40, 40, 10, 32_064, 4096, 13_960_238_080, "microsoft/Phi-3-medium-4k-instruct"),
    "phi3.5-3.8b": (3072, 8192, 32, 32, 32, 32_064, 131_072, 3_821_079_552, "microsoft/Phi-3.5-mini-instruct"),
    "phi4-14b": (5120, 17_920, 40, 40, 10, 100_352, 16_384, 14_659_507_200, "microsoft/phi-4"),
}
SHORT = (
    1.0, 1.02, 1.03, 1.03, 1.05, 1.05, 1.05, 1.05, 1.05, 1.07, 1.1, 1.11, 1.16, 1.16, 1.17, 1.29, 1.34, 1.68, 1.79,
    1.82, 1.85, 1.88, 1.91, 1.94, 1.99, 2.02, 2.02, 2.02, 2.02, 2.02, 2.02, 2.03, 2.03, 2.03, 2.03, 2.03, 2.03,
    2.03, 2.03, 2.03, 2.08, 2.09, 2.19, 2.22, 2.59, 2.73, 2.75, 2.84,
)  # fmt: skip
LONG = (
    1.08, 1.11, 1.14, 1.34, 1.59, 1.6, 1.62, 2.62, 3.23, 3.23, 4.79, 7.4, 7.7, 9.09, 12.2, 17.67, 24.46, 28.57,
    30.42, 30.84, 32.59, 32.93, 42.32, 44.96, 50.34, 50.45, 57.55, 57.93, 58.21, 60.14, 62.61, 62.62, 62.71, 63.14,
    63.14, 63.77, 63.93, 63.96, 63.97, 64.03, 64.07, 64.08, 64.12, 64.41, 64.48, 64.51, 64.53, 64.84,
)  # fmt: skip


def phi(name: str) -> DecoderConfig:
    """Phi 1, 1.5 and 2: one norm for both halves, a part of each head turns, biases everywhere and on the logits."""
    width, d_ff, num_layers, heads, kv_heads, vocab_size, context_length, _, _ = SMALL[name]
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context_length,
        attention=AttentionConfig(heads, kv_heads, width // heads, qkv_bias=True, out_bias=True),
        mlp=MlpConfig(d_ff=d_ff, activation="gelu_tanh", gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=1e-5, bias=True),
        rope=RopeConfig(theta=10_000.0, fraction=0.4 if name == "phi2-2.7b" else 0.5),
        block="parallel_shared_norm",
        head_bias=True,
        dropout=0.1 if name == "phi2-2.7b" else 0.0,
    )


def phi3(name: str) -> DecoderConfig:
    """Phi 3 to 4: Llama; with a window of 2,047 in Phi-3, and each frequency stretched by its own factor in 3.5."""
    width, d_ff, num_layers, heads, kv_heads, vocab_size, context_length, _, _ = LARGE[name]
    window = 2047 if context_length == 4096 else None
    rope = RopeConfig(theta=250_000.0 if name == "phi4-14b" else 10_000.0)
    if name == "phi3.5-3.8b":
        rope = RopeConfig(
            scaling="longrope", factor=32.0, original_context=4096, short_factors=SHORT, long_factors=LONG
        )
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context_length,
        attention=AttentionConfig(heads, kv_heads, width // heads, window=window),
        mlp=MlpConfig(d_ff=d_ff),
        norm=NormConfig(epsilon=1e-5),
        pattern=("global" if window is None else "local",),
        rope=rope,
    )


REPORTS = {
    "1": "arXiv 2306.11644", "1.5": "arXiv 2309.05463", "2": "Javaheripi and Bubeck 2023, The surprising power",
    "3": "arXiv 2404.14219", "3.5": "arXiv 2404.14219", "4": "arXiv 2412.08905",
}  # fmt: skip
for _name, _figures in (SMALL | LARGE).items():
    _version, _size = _name.removeprefix("phi").split("-")
    _stretched = "; factors of the rotation rounded to two decimals" if _version == "3.5" else ""
    register(
        Entry(
            name=_name,
            system=f"Phi-{_version} {_size.upper()}",
            config=functools.partial(phi if _name in SMALL else phi3, _name),
            parameters=_figures[-2],
            sources=(
                f"architecture: {REPORTS[_version]}",
                f"all sizes, rotation, windows: the released config.json{_stretched}",
                COUNTED,
            ),
            public="weights (MIT), architecture, recipe in outline; not the data",
            assumed="nothing in the architecture",
            repository=_figures[-1],
        )
    )
