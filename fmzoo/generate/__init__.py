"""Drawing outputs: text decoding with a cache."""

from fmzoo.generate.answers import Completion
from fmzoo.generate.decoding import Decoded, decode
from fmzoo.generate.sampling import SamplingConfig
from fmzoo.generate.text import stream, text

__all__ = ["Completion", "Decoded", "SamplingConfig", "decode", "stream", "text"]
