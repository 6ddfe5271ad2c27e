"""Gemma 1, 2 and 3 (arXiv 2403.08295, 2408.00118, 2503.19786); of Gemma 3 the language model alone."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, feed-forward width, layers, heads, key-value heads, head width, vocabulary, parameters
ONE = {
    "2b": (2048, 16_384, 18, 8, 1, 256, 256_000, 2_506_172_416),
    "7b": (3072, 24_576, 28, 16, 16, 256, 256_000, 8_537_680_896),
}
TWO = {
    "2b": (2304, 9216, 26, 8, 4, 256, 256_000, 2_614_341_888),
    "9b": (3584, 14_336, 42, 16, 8, 256, 256_000, 9_241_705_984),
    "27b": (4608, 36_864, 46, 32, 16, 128, 256_000, 27_227_128_320),
}
THREE = {
    "270m": (640, 2048, 18, 4, 1, 256, 262_144, 268_098_176),
    "1b": (1152, 6912, 26, 4, 1, 256, 262_144, 999_885_952),
    "4b": (2560, 10_240, 34, 8, 4, 256, 262_208, 3_880_263_168),
    "12b": (3840, 15_360, 48, 16, 8, 256, 262_208, 11_766_034_176),
    "27b": (5376, 21_504, 62, 32, 16, 128, 262_208, 27_009_346_304),
}


def gemma1(size: str) -> DecoderConfig:
    """Gemma: embeddings times sqrt(width), norms by 1 + w, tanh GELU gates, head width 256, a tied head."""
    return _decoder(ONE[size], context_length=8192)


def gemma2(size: str) -> DecoderConfig:
    """Gemma 2: norms before and after each half, every other layer with a window, soft caps."""
    softcap = {"attention": {"logit_softcap": 50.0, "window": 4096}, "logit_softcap": 30.0}
    scaled_by = 144 if size == "27b" else 256
    return _decoder(TWO[size], 8192, ("local", "global"), "both", scaled_by, **softcap)


def gemma3(size: str) -> DecoderConfig:
    """Gemma 3: five layers with a window to one without, two thetas, norms of queries and keys, no soft caps."""
    small = size in ("270m", "1b")
    stretched = {} if small else {"scaling": "linear", "factor": 8.0}
    return _decoder(
        THREE[size],
        32_768 if small else 131_072,
        ("local",) * 5 + ("global",),
        "both",
        168 if size == "27b" else 256,
        attention={"qk_norm": "head", "window": 512 if small else 1024},
        rope=RopeConfig(theta=1_000_000.0, **stretched),
        local_rope=RopeConfig(theta=10_000.0),
    )


def _decoder(
    size: tuple[int, ...],
    context_length: int,
    pattern: tuple[str, ...] = ("global",),
    norms: str = "pre",
    scaled_by: int = 256,
    attention: dict[str, object] | None = None,
    **options: object,
) -> DecoderConfig:
    """The options that all have; scores are divided by the square root of ``scaled_by``."""
    width, d_ff, num_layers, heads, kv_heads, head_dim, vocab_size, _ = size
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context_length,
        attention=AttentionConfig(heads, kv_heads, head_dim, scale=scaled_by**-0.5, **(attention or {})),
        mlp=MlpConfig(d_ff=d_ff, activation="gelu_tanh"),
        norm=NormConfig(epsilon=1e-6, unit_offset=True, placement=norms),
        pattern=pattern,
        tied_head=True,
        scaled_embedding=True,
        **options,
    )


PUBLIC = "weights (under the Gemma terms), architecture, recipe in outline; not the data"
REPORTS = {
    1: ("arXiv 2403.08295, table 1", gemma1, ONE, "google/gemma-{}"),
    2: ("arXiv 2408.00118, table 1 and section 2", gemma2, TWO, "google/gemma-2-{}"),
    3: ("arXiv 2503.19786, table 1 and section 2", gemma3, THREE, "google/gemma-3-{}-pt"),
}
for _version, (_report, _make, _sizes, _repository) in REPORTS.items():
    for _size, _figures in _sizes.items():
        _alone = _version == 3 and _size not in ("270m", "1b")
        register(
            Entry(
                name=f"gemma{_version}-{_size}",
                system=f"Gemma {_version} {_size.upper()}" + (" (language model)" if _alone else ""),
                config=functools.partial(_make, _size),
                parameters=_figures[-1],
                sources=(
                    f"sizes, windows, caps: {_report}",
                    "scale of scores, thetas: the released config.json",
                    COUNTED,
                ),
                public=PUBLIC,
                assumed="nothing in the architecture" + ("; the vision tower is left out" if _alone else ""),
                repository=_repository.format(_size),
            )
        )
