"""Jurassic-1 (Lieber et al. 2021, Jurassic-1: Technical Details and Evaluation); AI21 gives Jurassic-2 no sizes."""

import functools

from fmzoo.models import AttentionConfig, DecoderConfig, MlpConfig, NormConfig
from fmzoo.zoo.registry import Entry, register

# size: width, layers, heads, parameters
SIZES = {"7.5b": (4096, 32, 32, 7_526_293_504), "178b": (13_824, 76, 96, 177_951_790_080)}


def jurassic1(size: str) -> DecoderConfig:
    """Jurassic-1: GPT-2's decoder with a vocabulary of 256K items, words and phrases."""
    width, num_layers, heads, _ = SIZES[size]
    return DecoderConfig(
        vocab_size=262_144,
        d_model=width,
        num_layers=num_layers,
        context_length=2048,
        attention=AttentionConfig(heads, heads, width // heads, qkv_bias=True, out_bias=True),
        mlp=MlpConfig(d_ff=4 * width, activation="gelu_tanh", gated=False, bias=True),
        norm=NormConfig(kind="layer", bias=True),
        position="learned",
        tied_head=True,
    )


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"jurassic1-{_size}",
            system=f"Jurassic-1 {'Large' if _size == '7.5b' else 'Jumbo'}",
            config=functools.partial(jurassic1, _size),
            parameters=_figures[-1],
            sources=(
                "width, layers, heads: the whitepaper, table 1 (width and heads recalled; they give the count)",
                "context, vocabulary: AI21's page on the Jurassic-1 models",
                f"parameters: counted from the shapes; {_size.upper()} is published",
            ),
            public="architecture and results; neither weights nor data",
            assumed="256K is 262,144 items, as in Jurassic-2's tokenizer; the head tied, biases as in GPT-2",
            repository=None,
        )
    )
