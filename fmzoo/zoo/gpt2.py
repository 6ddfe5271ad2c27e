"""GPT-2 (Radford et al. 2019, Language Models are Unsupervised Multitask Learners)."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.zoo.registry import Entry, register

# size: width, layers, heads, parameters, repository
SIZES = {
    "124m": (768, 12, 12, 124_439_808, "openai-community/gpt2"),
    "355m": (1024, 24, 16, 354_823_168, "openai-community/gpt2-medium"),
    "774m": (1280, 36, 20, 774_030_080, "openai-community/gpt2-large"),
    "1.5b": (1600, 48, 25, 1_557_611_200, "openai-community/gpt2-xl"),
}


def gpt2(size: str) -> DecoderConfig:
    """GPT-2, with the dropout of GPT."""
    width, num_layers, heads, _, _ = SIZES[size]
    return gpt2_like(width, num_layers, heads, vocab_size=50_257, context_length=1024, dropout=0.1)


def gpt2_like(
    width: int, num_layers: int, heads: int, *, vocab_size: int, context_length: int, dropout: float = 0.0
) -> DecoderConfig:
    """LayerNorm before each half, learned positions, a plain tanh GELU, biases everywhere, a tied head."""
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_layers=num_layers,
        context_length=context_length,
        attention=AttentionConfig(heads, heads, width // heads, qkv_bias=True, out_bias=True, dropout=dropout),
        mlp=MlpConfig(d_ff=4 * width, activation="gelu_tanh", gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=1e-5, bias=True),
        position="learned",
        tied_head=True,
        dropout=dropout,
    )


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"gpt2-{_size}",
            system=f"GPT-2 {_size.upper()}",
            config=functools.partial(gpt2, _size),
            parameters=_figures[3],
            sources=(
                "width, layers, context, vocabulary: the paper, table 2 and section 2.3",
                "heads, activation: the released hparams.json and model.py",
                "parameters: counted from the shapes, equal to the released checkpoint's (the paper's 117M is low)",
            ),
            public="weights and code (MIT); neither data nor recipe",
            assumed="dropout 0.1, as in GPT",
            repository=_figures[4],
        )
    )
