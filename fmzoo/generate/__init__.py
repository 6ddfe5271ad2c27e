"""Drawing outputs: text decoding with a cache."""

from fmzoo.generate.answers import Completion
from fmzoo.generate.decoding import Decoded, decode, for_decoding
from fmzoo.generate.sampling import SamplingConfig
from fmzoo.generate.text import stream, text

__all__ = ["Completion", "Decoded", "SamplingConfig", "decode", "for_decoding", "stream", "text"]
