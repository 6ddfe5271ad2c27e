"""GPT-Neo (Black et al. 2021, doi 10.5281/zenodo.5297715) and GPT-J (Wang and Komatsuzaki 2021)."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig, RopeConfig
from fmzoo.zoo.registry import COUNTED, Entry, register

# size: width, layers, heads, parameters
NEO = {
    "125m": (768, 12, 12, 125_198_592),
    "1.3b": (2048, 24, 16, 1_315_575_808),
    "2.7b": (2560, 32, 20, 2_651_307_520),
}
GPTJ = 6_050_882_784
NORM = NormConfig(kind="layer", epsilon=1e-5, bias=True)


def gptneo(size: str) -> DecoderConfig:
    """GPT-Neo: GPT-2 with unscaled scores and a window of 256 in every other layer."""
    width, num_layers, heads, _ = NEO[size]
    return DecoderConfig(
        vocab_size=50_257,
        d_model=width,
        num_layers=num_layers,
        context_length=2048,
        attention=AttentionConfig(heads, heads, width // heads, scale=1.0, out_bias=True, window=256),
        mlp=MlpConfig(d_ff=4 * width, activation="gelu_tanh", gated=False, bias=True),
        norm=NORM,
        pattern=("global", "local"),
        position="learned",
        tied_head=True,
    )


def gptj() -> DecoderConfig:
    """GPT-J: one norm for both halves, a quarter of each head turns by pairs of neighbours, a bias on the logits."""
    return DecoderConfig(
        vocab_size=50_400,
        d_model=4096,
        num_layers=28,
        context_length=2048,
        attention=AttentionConfig(16, 16, 256),
        mlp=MlpConfig(d_ff=16_384, activation="gelu_tanh", gated=False, bias=True),
        norm=NORM,
        rope=RopeConfig(theta=10_000.0, fraction=0.25, interleaved=True),
        block="parallel_shared_norm",
        head_bias=True,
    )


for _size, _figures in NEO.items():
    register(
        Entry(
            name=f"gptneo-{_size}",
            system=f"GPT-Neo {_size.upper()}",
            config=functools.partial(gptneo, _size),
            parameters=_figures[-1],
            sources=("width, layers, heads, windows: the released config.json", COUNTED),
            public="weights and code (MIT), recipe; the Pile is no longer distributed",
            assumed="nothing in the architecture",
            repository=f"EleutherAI/gpt-neo-{_size}",
        )
    )
register(
    Entry(
        name="gptj-6b",
        system="GPT-J 6B",
        config=gptj,
        parameters=GPTJ,
        sources=(
            "width, layers, heads, rotation: the table of the model card",
            "parameters: counted from the shapes of the released checkpoint (the card's 6,053,381,344 is high)",
        ),
        public="weights and code (Apache-2.0), recipe; the Pile is no longer distributed",
        assumed="nothing in the architecture",
        repository="EleutherAI/gpt-j-6b",
    )
)
