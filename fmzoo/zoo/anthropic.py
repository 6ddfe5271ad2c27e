"""The seven decoders of Anthropic's alignment papers (arXiv 2112.00861, 2204.05862); no product model is published."""

import functools

from fmzoo.models import DecoderConfig
from fmzoo.zoo.gpt2 import gpt2_like
from fmzoo.zoo.registry import Entry, register

# size without embeddings: width, layers, parameters with them
SIZES = {
    "13m": (512, 4, 42_560_512),
    "42m": (768, 6, 87_453_696),
    "197m": (1280, 10, 271_651_840),
    "810m": (2048, 16, 925_536_256),
    "2.7b": (3072, 24, 2_898_573_312),
    "13b": (5120, 40, 12_885_084_160),
    "52b": (8192, 64, 52_025_638_912),
}


def anthropic(size: str) -> DecoderConfig:
    """A decoder like GPT-2 with 8,192 positions, as wide as 128 times its depth."""
    width, num_layers, _ = SIZES[size]
    return gpt2_like(width, num_layers, num_layers, vocab_size=50_304, context_length=8192)


for _size, _figures in SIZES.items():
    register(
        Entry(
            name=f"anthropic-{_size}",
            system=f"Anthropic's decoder of {_size.upper()}",
            config=functools.partial(anthropic, _size),
            parameters=_figures[-1],
            sources=(
                "sizes, context: arXiv 2112.00861, appendix A; 2204.05862",
                "layers of the two smallest and the largest: arXiv 2204.05862, section 5.4",
                "vocabulary: arXiv 2205.10487, section 3",
                f"parameters: counted from the shapes; {_size.upper()} without embeddings is published",
            ),
            public="sizes, recipe and results; neither weights nor code",
            assumed="width 128 times the layers (gives all seven counts), heads 128 wide, GPT-2's positions, biases",
            repository=None,
        )
    )
