"""Jurassic-1 (Lieber et al. 2021, Jurassic-1: Technical Details and Evaluation); AI21 gives Jurassic-2 no sizes."""

import functools

from fmzoo.models import DecoderConfig
from fmzoo.zoo.gpt2 import gpt2_like
from fmzoo.zoo.registry import Entry, register

# size: width, layers, heads, parameters
SIZES = {"7.5b": (4096, 32, 32, 7_526_293_504), "178b": (13_824, 76, 96, 177_951_790_080)}


def jurassic1(size: str) -> DecoderConfig:
    """Jurassic-1: GPT-2's decoder with a vocabulary of 256K items, words and phrases."""
    width, num_layers, heads, _ = SIZES[size]
    return gpt2_like(width, num_layers, heads, vocab_size=262_144, context_length=2048)


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"jurassic1-{_size}",
            system=f"Jurassic-1 {'Large' if _size == '7.5b' else 'Jumbo'}",
            config=functools.partial(jurassic1, _size),
            parameters=_figures[-1],
            sources=(
                f"{_size.upper()}, context, vocabulary: AI21 Studio, Jurassic-1 Language Models (undated)",
                "GPT-2's decoder, the largest's 76 layers: the whitepaper, August 2021, by Tsang's review, March 2023",
                "parameters: counted from the shapes",
            ),
            public="architecture and results; neither weights nor data",
            assumed="width and heads, and the smaller one's 32 layers: they give the count; 262,144 items, as in "
            "Jurassic-2's tokenizer, for 256K; a tied head",
            repository=None,
        )
    )
