"""Pythia (arXiv 2304.01373) and GPT-NeoX-20B (2204.06745), trained on the Pile."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, layers, heads, vocabulary, parameters
PYTHIA = {
    "14m": (128, 6, 4, 50_304, 14_067_712),
    "70m": (512, 6, 8, 50_304, 70_426_624),
    "160m": (768, 12, 12, 50_304, 162_322_944),
    "410m": (1024, 24, 16, 50_304, 405_334_016),
    "1b": (2048, 16, 8, 50_304, 1_011_781_632),
    "1.4b": (2048, 24, 16, 50_304, 1_414_647_808),
    "2.8b": (2560, 32, 32, 50_304, 2_775_208_960),
    "6.9b": (4096, 32, 32, 50_432, 6_857_302_016),
    "12b": (5120, 36, 40, 50_688, 11_846_072_320),
}
NEOX = (6144, 44, 64, 50_432, 20_554_567_680)


def pythia(size: str) -> DecoderConfig:
    """Pythia: both halves of a layer read the same input, a quarter of a head turns, GELU by the error function."""
    return _decoder(PYTHIA[size], "gelu")


def neox() -> DecoderConfig:
    """GPT-NeoX-20B: the same with GELU by tanh."""
    return _decoder(NEOX, "gelu_tanh")


def _decoder(size: tuple[int, ...], activation: str) -> DecoderConfig:
    width, num_layers, heads, vocab_size, _ = size
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=2048,
        attention=AttentionConfig(heads, heads, width // heads, qkv_bias=True, out_bias=True),
        mlp=MlpConfig(d_ff=4 * width, activation=activation, gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=1e-5, bias=True),
        rope=RopeConfig(theta=10_000.0, fraction=0.25),
        block="parallel",
    )


PUBLIC = "weights and code (Apache-2.0), every checkpoint, recipe; the Pile is no longer distributed"
for _size, _figures in PYTHIA.items():
    _table = "the model card" if _size == "14m" else "arXiv 2304.01373, table 1"
    register(
        Entry(
            name=f"pythia-{_size}",
            system=f"Pythia {_size.upper()}",
            config=functools.partial(pythia, _size),
            parameters=_figures[-1],
            sources=(f"width, layers, heads: {_table}", "vocabulary, rotation: the released config.json", COUNTED),
            public=PUBLIC,
            assumed="nothing in the architecture",
            repository=f"EleutherAI/pythia-{_size}",
        )
    )
register(
    Entry(
        name="neox-20b",
        system="GPT-NeoX-20B",
        config=neox,
        parameters=NEOX[-1],
        sources=("width, layers, heads, rotation: arXiv 2204.06745, section 2", COUNTED),
        public=PUBLIC,
        assumed="nothing in the architecture",
        repository="EleutherAI/gpt-neox-20b",
    )
)
